"""One text seen several ways: forms in disguise, each mapped back to the characters that spell it."""

from guardtok.views.folds import HIDDEN_RUN as HIDDEN_RUN
from guardtok.views.lookout import Lookout as Lookout
from guardtok.views.lookout import prepare as prepare
from guardtok.views.search import Disguise as Disguise
from guardtok.views.search import find_disguised as find_disguised
