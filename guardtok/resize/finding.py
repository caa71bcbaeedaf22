"""The findings of resizing are those of every check; they stand in `guardtok.finding`."""

from guardtok.finding import Finding, Severity

__all__ = ["Finding", "Severity"]
