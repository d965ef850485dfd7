"""What an edge answers the rules' functions that call out: what a site can be asked, and nothing else."""

from devices.answers import ANSWERED, SiteAnswers
from rules.sql.functions.calls import Unanswered

CALLS = ANSWERED  # what an edge can be asked


class EdgeCalls(SiteAnswers, Unanswered):
    """The answers of one edge. Nothing waits for the cloud."""
