"""What is suspicious about a policy that loads: rules without effect, doors that it opens, protection that it drops."""

from guardtok.lint.finding import LintFinding as LintFinding
from guardtok.lint.finding import Severity as Severity
from guardtok.lint.review import lint as lint
