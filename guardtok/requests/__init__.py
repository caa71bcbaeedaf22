"""Whole request bodies: every string and every key that can reach a prompt, each with its source and its JSON path."""

from guardtok.requests.protocols import PROTOCOLS as PROTOCOLS
from guardtok.requests.request import SanitizedRequest as SanitizedRequest
