"""What a node tells OpenTelemetry of its transfers: nothing and at no cost, unless `telemetry.enabled`."""

from dwcp.telemetry.seam import NO_SPAN, Attributes, Span, Telemetry, shipping, spanning, telemetry_of

__all__ = ["NO_SPAN", "Attributes", "Span", "Telemetry", "shipping", "spanning", "telemetry_of"]
