"""The findings of resizing are those of every check; they stand in `guardtok.finding`."""

from guardtok.finding import Finding as Finding
from guardtok.finding import Severity as Severity
