"""Corpora: find control tokens in data, and report them, break them, or leave them out, on one machine or on many."""

from guardtok.corpus.action import CorpusAction as CorpusAction
from guardtok.corpus.finding import Problem as Problem
from guardtok.corpus.finding import RowFinding as RowFinding
from guardtok.corpus.scanner import ArrowScanner as ArrowScanner
from guardtok.corpus.scanner import Scanned as Scanned
