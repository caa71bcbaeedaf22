"""Tests that lie beside a policy: `NAME.test.yaml` beside `NAME.yaml` says what the policy shall make of a text.

A policy is a few lines in which one misplaced word opens a door, and whoever changes it next does not know what it was
for. So what it is for is written down as texts and their fate, and rules that no text reaches are listed.
"""

from guardtok.policy_test.run import SUFFIX as SUFFIX
from guardtok.policy_test.run import CaseResult as CaseResult
from guardtok.policy_test.run import FileResult as FileResult
from guardtok.policy_test.run import Mismatch as Mismatch
from guardtok.policy_test.run import Untouched as Untouched
from guardtok.policy_test.run import find_tests as find_tests
from guardtok.policy_test.run import list_cases as list_cases
from guardtok.policy_test.run import run_policy_tests as run_policy_tests
