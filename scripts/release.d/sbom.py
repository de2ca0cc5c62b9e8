"""The software bill of materials of a release: CycloneDX 1.6 in JSON, checked against its schema."""

from __future__ import annotations

import hashlib
import re
import subprocess
import uuid
import zipfile
import zlib
from collections.abc import Mapping
from datetime import datetime, timezone
from email.message import Message
from email.parser import Parser
from importlib import metadata
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement

_MADE_WITH = ("build", "cyclonedx-python-lib", "hatchling")
_PROGRAM = re.compile(r"allgone/_linux/allgone-[a-z]+")
_URL = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # uuid.NAMESPACE_URL, RFC 9562
_OURS = ('"test"', '"docs"', '"compare"')  # extras


def of_release(dist: Path, commit: str, epoch: int, compilers: Mapping[str, str]) -> str:
    """The text of it for the sdist and the wheels in `dist`.

    It has: each file with its SHA-256, in each wheel the compiled programs, and what they were compiled with; what an
    installation requires, and what the extras do; what the release was made with, which is in none of its files.
    Raises ValueError if it were not valid by the schema.
    """
    wheels = sorted(dist.glob("*.whl"))
    about = _metadata(wheels[0])
    whole = Component(
        type=ComponentType.LIBRARY, name=about["Name"], version=about["Version"], description=about["Summary"],
        licenses=[DisjunctiveLicense(id=about["License-Expression"])],
        purl=PackageURL("pypi", name=about["Name"], version=about["Version"]), bom_ref="allgone",
        properties=[Property(name="allgone:commit", value=commit)],
    )  # fmt: skip
    needed = [_requirement(each) for each in _requirements(about)]
    files = [_file(path) for path in sorted(dist.iterdir())]
    tools = [*map(_python_tool, _MADE_WITH), *(_compiler(*each) for each in sorted(compilers.items())), _zlib()]
    bom = Bom(
        # The same release has the same number, whoever makes it.
        serial_number=uuid.uuid5(_URL, f"allgone {about['Version']} {commit}"),
        metadata=BomMetaData(component=whole, timestamp=datetime.fromtimestamp(epoch, timezone.utc)),
        components=[*files, *needed, *tools],
    )
    bom.register_dependency(whole, [each for each in needed if each.scope is ComponentScope.REQUIRED])
    text: str = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"the SBOM is not valid: {wrong}")
    return text + "\n"


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def _requirements(about: Message) -> list[Requirement]:
    """Without those of extras that are for who works on allgone."""
    found = map(Requirement, about.get_all("Requires-Dist", []))
    return [each for each in found if each.marker is None or not any(extra in str(each.marker) for extra in _OURS)]


def _requirement(needed: Requirement) -> Component:
    """It has no version: which one is taken is decided where it is installed."""
    optional = needed.marker is not None
    return Component(
        type=ComponentType.LIBRARY, name=needed.name, purl=PackageURL("pypi", name=needed.name),
        bom_ref=f"requires {needed.name}", scope=ComponentScope.OPTIONAL if optional else ComponentScope.REQUIRED,
        properties=[Property(name="allgone:requirement", value=str(needed))],
    )  # fmt: skip


def _file(path: Path) -> Component:
    made = Component(type=ComponentType.FILE, name=path.name, bom_ref=path.name, hashes=[_sha256(path.read_bytes())])
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for name in sorted(filter(_PROGRAM.fullmatch, wheel.namelist())):
                ref, text = f"{path.name}/{name}", wheel.read(name)
                made.components.add(
                    Component(type=ComponentType.FILE, name=name, bom_ref=ref, hashes=[_sha256(text)])
                )  # fmt: skip
    return made


def _sha256(text: bytes) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(text).hexdigest())


def _tool(name: str, version: str, purl: PackageURL | None = None) -> Component:
    return Component(
        type=ComponentType.APPLICATION, name=name, version=version, purl=purl, scope=ComponentScope.EXCLUDED,
        bom_ref=f"made with {name}",
    )  # fmt: skip


def _python_tool(name: str) -> Component:
    version = metadata.version(name)
    return _tool(name, version, PackageURL("pypi", name=name, version=version))


def _compiler(architecture: str, cc: str) -> Component:
    told = subprocess.run([cc, "--version"], capture_output=True, text=True, check=True, env={"LC_ALL": "C"})
    return _tool(cc, told.stdout.splitlines()[0].partition(" ")[2])


def _zlib() -> Component:
    return _tool("zlib", zlib.ZLIB_RUNTIME_VERSION)
