"""Policies: what each source of text may do with control tokens, as YAML says it."""

from guardtok.policy.files import shipped_policies as shipped_policies
from guardtok.policy.load import load_policy as load_policy
from guardtok.policy.load import parse_policy as parse_policy
from guardtok.policy.model import ANY_SOURCE as ANY_SOURCE
from guardtok.policy.model import BUILTIN_SOURCES as BUILTIN_SOURCES
from guardtok.policy.model import CustomToken as CustomToken
from guardtok.policy.model import Default as Default
from guardtok.policy.model import Entry as Entry
from guardtok.policy.model import Group as Group
from guardtok.policy.model import Limits as Limits
from guardtok.policy.model import Lock as Lock
from guardtok.policy.model import LogText as LogText
from guardtok.policy.model import Mark as Mark
from guardtok.policy.model import Policy as Policy
from guardtok.policy.model import Reaction as Reaction
from guardtok.policy.model import SourceRules as SourceRules
from guardtok.policy.model import Surrogates as Surrogates
from guardtok.policy.model import TextForm as TextForm
from guardtok.policy.model import TokenizerBinding as TokenizerBinding
