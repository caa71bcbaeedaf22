"""Signed bundles: a policy with all that it extends in one file, and proof of who made it.

Whoever can change a policy can open every door. A bundle is taken whole or not at all: signed by the key that the
operator names, no file altered, added or missing, and never older than what is in force.
"""

from guardtok.bundles.keys import read_key as read_key
from guardtok.bundles.load import Bundle as Bundle
from guardtok.bundles.load import load_bundle as load_bundle
from guardtok.bundles.load import open_bundle as open_bundle
from guardtok.bundles.make import make_bundle as make_bundle
from guardtok.bundles.manifest import Manifest as Manifest
