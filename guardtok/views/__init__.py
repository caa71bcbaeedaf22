"""One text seen several ways: forms in disguise, each mapped back to the characters that spell it."""

from guardtok.views.folds import HIDDEN_RUN as HIDDEN_RUN
from guardtok.views.lookout import Lookout as Lookout
from guardtok.views.lookout import prepare as prepare
from guardtok.views.search import Disguise as Disguise
from guardtok.views.search import find_disguised as find_disguised
from guardtok.views.search import find_suspects as find_suspects
from guardtok.views.search import may_hold as may_hold
from guardtok.views.sieve import Sieve as Sieve
from guardtok.views.sieve import make_sieve as make_sieve
