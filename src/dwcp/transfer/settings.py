"""What a transfer takes from the configuration, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from dwcp.config import Config
from dwcp.hde.codecs import BY_NAME, NONE, Codec


@dataclass(frozen=True, slots=True)
class Compression:
    """How bodies are encoded. `min_ratio`: content bytes per body byte below which a block goes plain."""

    codec: Codec
    level: str
    min_ratio: float
    adaptive: bool
    threshold: float
    """Percent."""
    delta: bool
    delta_algorithm: str
    """How a segment's literals are coded: see `hde.residue`."""

    @classmethod
    def of(cls, config: Config) -> Compression:
        section = config.compression
        return cls(
            codec=BY_NAME[section.algorithm] if section.enabled else NONE,
            level=section.level,
            min_ratio=section.min_compression_ratio,
            adaptive=section.enable_adaptive,
            threshold=section.adaptive_threshold,
            delta=section.enable_delta_encoding,
            delta_algorithm=section.delta_algorithm if section.enabled else "none",
        )
