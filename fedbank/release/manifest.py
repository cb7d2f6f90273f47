"""What a release is: one canonical JSON object (docs/formats/release-manifest.md), numbers with a point as text.

Base model, adapter, training, privacy per bank, evaluation, lineage, licence. Public values only.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fedbank.release.contents import check_id
from fedbank.release.errors import ReleaseError
from fedbank.release.tensors import expanded
from fedbank.sealing.canonical import canonical, read_canonical

FORMAT = "fedbank-release/1"
MAX_MANIFEST_BYTES = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?")
_DTYPES = ("F32", "F16", "BF16")
_SECTIONS: Mapping[str, Mapping[str, type]] = {
    "base": {"name": str, "revision": str, "digest": str, "files": dict},
    "adapter": {
        "digest": str,
        "rank": int,
        "alpha": str,
        "target_modules": list,
        "layers": list,
        "dtype": str,
        "tensors": dict,
        "norm": str,
    },
    "training": {
        "campaign": str,
        "rounds": int,
        "participants": int,
        "max_length": int,
        "rule": str,
        "secure_aggregation": bool,
        "code": str,
        "lock": str,
    },
    "privacy": {"unit": str, "accountant": str, "mode": str, "banks": dict},
    "evaluation": {"suite": str, "records": int, "base": dict, "adapter": dict},
}
_PRIVACY = ("epsilon", "delta", "noise_multiplier", "clip_norm", "sampling_prob", "steps")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The parsed manifest: sections as they are written, every one of the agreed form.

    ``tensors`` of the adapter: shape by name, shortened by ``tensors.written``. ``banks`` of privacy: numbers by bank,
    ``None``: trained without. ``scores``: decimal texts by name.
    """

    release: str
    parent: str | None
    licence: str
    data_card: str
    created: str
    base: Mapping[str, Any]
    adapter: Mapping[str, Any]
    training: Mapping[str, Any]
    privacy: Mapping[str, Any]
    evaluation: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """The manifest's file."""
        return canonical({"format": FORMAT, **{name: getattr(self, name) for name in self.__slots__}})

    @classmethod
    def from_bytes(cls, content: bytes) -> "Manifest":
        """The inverse.

        Raises:
            ReleaseError: it is too long, not canonical, of another format, or has another field than agreed.
        """
        try:
            if len(content) > MAX_MANIFEST_BYTES:
                raise ValueError(f"it is longer than {MAX_MANIFEST_BYTES} bytes")
            said = read_canonical(content)
            if said.pop("format", None) != FORMAT:
                raise ValueError(f"it is not of the format {FORMAT}")
            manifest = cls(**said)
            manifest._check()
        except (ValueError, KeyError, TypeError) as error:
            raise ReleaseError(
                "manifest", f"Expected the manifest of a release, got something else: {error!s:.200}."
            ) from error
        return manifest

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by name."""
        return expanded(self.adapter["tensors"], self.adapter["layers"])

    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def _check(self) -> None:
        check_id(self.release)
        if self.parent is not None:
            check_id(self.parent)
        _texts(licence=self.licence, data_card=self.data_card, created=self.created)
        for name, fields in _SECTIONS.items():
            _check_section(name, getattr(self, name), fields)
        _check_adapter(self.adapter)
        _digests([self.base["digest"], self.adapter["digest"], *self.base["files"].values()])
        _digests([self.training["lock"], self.evaluation["suite"]])
        for bank, spent in self.privacy["banks"].items():
            if spent is not None and (
                set(spent) != set(_PRIVACY) or not all(_number(spent[name]) for name in _PRIVACY)
            ):
                raise ValueError(f"the privacy of {bank} has other fields than {', '.join(_PRIVACY)}")
        for scores in (self.evaluation["base"], self.evaluation["adapter"]):
            if not all(_number(value) for value in scores.values()):
                raise ValueError("a score is no number")


def decimal_text(value: float) -> str:
    """A number as manifests write it: the shortest text that gives it back."""
    return format(Decimal(repr(float(value))), "f") if abs(value) >= 1e-6 or value == 0 else repr(float(value))


def _check_section(name: str, section: object, fields: Mapping[str, type]) -> None:
    if not isinstance(section, dict) or set(section) != set(fields):
        raise ValueError(f"{name} has other fields than {', '.join(fields)}")
    wrong = [field for field, kind in fields.items() if type(section[field]) is not kind]
    if wrong:
        raise ValueError(f"{name}.{wrong[0]} is of another type")
    _texts(**{f"{name}.{field}": value for field, value in section.items() if isinstance(value, str)})
    for field, value in section.items():
        if isinstance(value, dict):  # what is shown to whoever signs: no name ends a line or turns the writing round
            _texts(**{f"a name in {name}.{field}": other for other in value if not _is_short(other)})


def _check_adapter(adapter: Mapping[str, Any]) -> None:
    if adapter["dtype"] not in _DTYPES or not 1 <= adapter["rank"] <= 1024:
        raise ValueError("the adapter has another dtype or rank than any adapter")
    if not (_number(adapter["alpha"]) and _number(adapter["norm"])):
        raise ValueError("the adapter's alpha or norm is no number")
    for shape in adapter["tensors"].values():
        if not (_are(shape, int) and len(shape) == 2 and all(0 < size <= 1 << 24 for size in shape)):
            raise ValueError("a tensor of the adapter has no shape of two sizes")
    if not (_are(adapter["target_modules"], str) and _are(adapter["layers"], int) and adapter["tensors"]):
        raise ValueError("the adapter's modules, layers or tensors are of another form")
    if not expanded(adapter["tensors"], adapter["layers"]):
        raise ValueError("the adapter has no tensors")


def _are(values: object, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _number(text: object) -> bool:
    short = isinstance(text, str) and len(text) <= 40 and _NUMBER.fullmatch(text)
    return bool(short) and math.isfinite(float(str(text)))


def _texts(**values: object) -> None:
    for name, value in values.items():
        if not _is_short(value):
            raise ValueError(f"{name} is no short text")


def _is_short(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 200 and value.isprintable()


def _digests(values: Sequence[object]) -> None:
    if not all(isinstance(value, str) and _DIGEST.fullmatch(value) for value in values):
        raise ValueError("a digest is no SHA-256")
