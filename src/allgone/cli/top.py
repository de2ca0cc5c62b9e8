"""``allgone top``: all containments that the caller may see, live; keys to stop, kill and freeze them."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Header, Label, Static

from allgone._core.names import printable
from allgone._core.sockets import Wanted
from allgone._process import listening
from allgone._upkeep import inventory
from allgone._upkeep.inventory import Item
from allgone.cli import containments
from allgone.errors import AllgoneError

_WIDTHS = {"NAME": None, "STATE": 9, "PROCS": 6, "CPU%": 6, "MEMORY": 7, "SINCE": 6, "OWNER": 8, "COMMAND": None}
_MOST_PROCESSES = 500  # shown of one containment
_STYLES = {"stale": "red", "frozen": "cyan", "freezing": "cyan", "released": "yellow"}


@dataclass(frozen=True, slots=True)
class Line:
    """A containment at one moment."""

    item: Item
    count: int
    cpu: float | None  # seconds
    share: float | None  # of one CPU since the moment before, in percent
    memory: int | None

    def cells(self) -> list[Text]:
        item = self.item
        since = "-" if item.since is None else containments.ago(time.time() - item.since)
        words = (
            item.id, item.state, str(self.count), "-" if self.share is None else f"{self.share:.0f}",
            "-" if self.memory is None else f"{self.memory >> 20}M", since, str(item.owner or "?"),
            item.command or item.owner_command,
        )  # fmt: skip
        return [Text(printable(word, 200), style=_STYLES.get(item.state, "")) for word in words]


class Lookout:
    """Looks at all containments, or at those called so, again and again."""

    def __init__(self, names: Collection[str] = ()) -> None:
        self._names = names
        self._before: dict[str, float] = {}
        self._at = 0.0

    def look(self) -> list[Line]:
        now, found = time.monotonic(), []
        spent: dict[str, float] = {}
        wanted = set(self._names)
        items = [item for item in inventory.items() if not wanted or {item.name, item.id} & wanted]
        for item, members in zip(items, inventory.members(items), strict=True):
            cpu, share = item.cpu(), None
            if cpu is not None:
                spent[item.id] = cpu
                if item.id in self._before:
                    share = max(0.0, cpu - self._before[item.id]) / max(now - self._at, 1e-3) * 100
            found.append(Line(item, len(members), cpu, share, item.memory()))
        self._before, self._at = spent, now
        return found


def details(item: Item) -> Text:
    """The processes of one containment as a tree, and what it listens on."""
    text = Text(no_wrap=True)
    tree = containments.process_tree(item.containment.members())
    for line in tree[:_MOST_PROCESSES]:
        text.append(printable(line, 500) + "\n")
    if len(tree) > _MOST_PROCESSES:
        text.append(f"… and {len(tree) - _MOST_PROCESSES} more\n", style="dim")
    try:
        ports = ", ".join(str(each) for each in listening.of(item.containment, Wanted())) or "nothing"
    except OSError as e:
        ports = f"not known: {e.strerror}"
    text.append(f"listens on {printable(ports, 500)}\n", style="bold")
    text.append(f"{item.backend}, {printable(item.where, 500)}" + (f", {item.unit}" if item.unit else ""), style="dim")
    return text


class Question(ModalScreen[bool]):
    """Yes or no."""

    CSS = """
    Question { align: center middle; }
    Question > Label { padding: 1 3; border: round $warning; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes"),
        Binding("n,escape", "dismiss(False)", "No"),
    ]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        yield Label(Text(f"{self._text}  (y/n)"))


class Top(App[None]):
    """The whole screen."""

    TITLE = "allgone top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    DataTable { height: 1fr; }
    VerticalScroll { height: 1fr; border-top: solid $primary; padding: 0 1; }
    #details { width: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "end('stop')", "Stop"),
        Binding("k", "end('kill')", "Kill"),
        Binding("f", "freeze", "Freeze/thaw"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, names: Sequence[str], interval: float) -> None:
        super().__init__()
        self._lookout = Lookout(names)
        self._interval = interval
        self._lines: dict[str, Line] = {}

    def compose(self) -> ComposeResult:
        yield Header(show_clock=True)
        yield DataTable(cursor_type="row", zebra_stripes=True)
        with VerticalScroll():
            yield Static(id="details")
        yield Footer()

    def on_mount(self) -> None:
        table = self.query_one(DataTable)
        for title, width in _WIDTHS.items():
            table.add_column(title, key=title, width=width)
        table.focus()
        self.look()
        self.set_interval(self._interval, self.look)

    @work(thread=True, exclusive=True, group="look")
    def look(self) -> None:
        """In a thread, for it reads the whole machine."""
        self.call_from_thread(self._show, self._lookout.look())

    def _show(self, lines: list[Line]) -> None:
        table = self.query_one(DataTable)
        now = {line.item.id: line for line in lines}
        for gone in self._lines.keys() - now.keys():
            table.remove_row(gone)
        for id, line in now.items():
            if id not in self._lines:
                table.add_row(*line.cells(), key=id)
                continue
            for title, cell in zip(_WIDTHS, line.cells(), strict=True):
                table.update_cell(id, title, cell)
        self._lines = now
        self.sub_title = f"{len(now)} containments, {sum(line.count for line in lines)} processes"
        self._show_details()

    def on_data_table_row_highlighted(self) -> None:
        self._show_details()

    def _show_details(self) -> None:
        item = self._selected()
        if item is None:
            self.query_one("#details", Static).update("")
        else:
            self.describe(item)

    @work(thread=True, exclusive=True, group="details")
    def describe(self, item: Item) -> None:
        """In a thread, for there may be thousands of processes."""
        self.call_from_thread(self.query_one("#details", Static).update, details(item))

    def _selected(self) -> Item | None:
        table = self.query_one(DataTable)
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return self._lines[key].item if key in self._lines else None

    def action_end(self, how: str) -> None:
        item = self._selected()
        if item is None:
            return
        if not containments.may_end(item):
            self.notify(f"it is of user {item.uid}; only that user and root may end it", severity="error")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.end(item, how)

        self.push_screen(Question(f"{how.capitalize()} {printable(item.id, 100)}?"), answered)

    @work(thread=True)
    def end(self, item: Item, how: str) -> None:
        """In a thread, for it waits as long as the policy grants."""
        failed = containments.end_items([item], kill=how == "kill")
        for each in failed:
            self.call_from_thread(self.notify, printable(str(each)), severity="error", markup=False)
        self.call_from_thread(self.look)

    def action_freeze(self) -> None:
        item = self._selected()
        if item is None:
            return
        try:
            inventory.freeze(item, item.state not in ("frozen", "freezing"))
        except (AllgoneError, OSError) as e:
            self.notify(printable(str(e)), severity="error", markup=False)
        self.look()


def run(names: Sequence[str], interval: float) -> int:
    """Until q is pressed."""
    Top(names, interval).run()
    return 0
