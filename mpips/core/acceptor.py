"""An acceptor: stores what leaders propose, and takes nothing from those that others replaced."""

from mpips.wire.voting import Accepted, Claim, Promise, Propose, Refused, Stored


class Acceptor:
    """One node's share of the log of decisions (Lamport, *Paxos Made Simple*, 2001, section 2.2).

    Its log has no gaps: a leader proposes from what this acceptor has confirmed to it.

    Attributes:
        promised: the highest ballot that it has taken part in.
        log: entries with the ballots in which they were proposed last.
    """

    def __init__(self) -> None:
        self.promised = 0
        self.log: list[Stored] = []

    def step(self, message: Claim | Propose) -> Promise | Accepted | Refused:
        """Take a candidate's or leader's message and return the answer."""
        ballot = message.ballot
        if ballot < self.promised:
            return Refused(ballot=ballot, promised=self.promised)
        self.promised = ballot
        if isinstance(message, Claim):
            return Promise(ballot=ballot, log=list(self.log))
        start, entries = message.start, message.entries
        assert start <= len(self.log), (start, len(self.log))
        # What is there beyond is of a lower ballot, or of this one: it stays.
        self.log[start : start + len(entries)] = [Stored(ballot, entry) for entry in entries]
        return Accepted(ballot=ballot, stored=start + len(entries))
