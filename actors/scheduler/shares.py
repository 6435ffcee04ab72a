"""What clients that contend have had: tokens by weight. Who has had the least goes first.

A virtual counter for each client that has requests, as in "Fairness in Serving Large Language Models" (OSDI 2024): it
grows by the tokens of prompts that were run for the client and by those that were generated, a token counting for
less the more weight its request has. Who comes back to the queue begins where the others stand, and has saved nothing
up; a counter without requests is forgotten. So where one client is alone this decides nothing.

Within a client, its users are told apart in the same way: each has a counter among the client's own. How many users a
client names, and whom, changes nothing for other clients.
"""

from __future__ import annotations

__all__ = ["Account", "Shares"]


class Account:
    """One counter: a client's, or that of one of its users, which is charged with it."""

    __slots__ = ("_siblings", "name", "num_requests", "num_waiting", "number", "owner", "spent", "users")

    def __init__(self, name: str | None, siblings: Shares, *, number: int, spent: float) -> None:
        self._siblings = siblings
        """Those it has its share with."""
        self.name = name
        self.number = number
        """In the order of their coming: of equals, the first goes first."""
        self.spent = spent
        self.owner = siblings.owner
        """A user's client; None for a client."""
        self.users: Shares | None = Shares(self) if siblings.owner is None else None
        """A client's."""
        self.num_requests = 0
        self.num_waiting = 0

    def __repr__(self) -> str:
        return f"<Account {self.name!r} spent={self.spent:.0f} requests={self.num_requests}>"

    def charge(self, tokens: int, weight: float) -> None:
        """Count tokens that were run for it; below 0, take back what was counted too much."""
        counted = tokens / weight
        self.spent += counted
        if self.owner is not None:
            self.owner.spent += counted

    def leave(self) -> None:
        """A request is over."""
        self._siblings.leave(self)
        if self.owner is not None:
            self.owner.leave()

    def wait(self) -> None:
        """One of its requests waits from now on."""
        self._siblings.wait(self)
        if self.owner is not None:
            self.owner.wait()

    def stop_waiting(self) -> None:
        """One of them waits no longer."""
        self.num_waiting -= 1
        if self.owner is not None:
            self.owner.stop_waiting()

    def serve(self) -> None:
        """One of them was chosen."""
        self._siblings.serve(self)
        if self.owner is not None:
            self.owner.serve()


class Shares:
    """The accounts of all clients that have requests, or of one client's users. Those that name none are one."""

    def __init__(self, owner: Account | None = None) -> None:
        """`owner`: the client whose users these are."""
        self.owner = owner
        self._accounts: dict[str | None, Account] = {}
        self._now = 0.0
        """What the one had spent that was served last: where who comes begins."""
        self._next = 0

    def __repr__(self) -> str:
        return f"<Shares {[*self._accounts.values()]}>"

    def __len__(self) -> int:
        return len(self._accounts)

    def join(self, client: str | None, user: str | None = None) -> Account:
        """The account of a request that has come: its user's, whose owner is its client's."""
        account = self._accounts.get(client)
        if account is None:
            account = self._accounts[client] = Account(client, self, number=self._next, spent=self._now)
            self._next += 1
        account.num_requests += 1
        return account if account.users is None else account.users.join(user)

    def leave(self, account: Account) -> None:
        """A request of one of them is over."""
        account.num_requests -= 1
        if not account.num_requests:
            del self._accounts[account.name]
            if not self._accounts:
                self._now = 0.0

    def wait(self, account: Account) -> None:
        """A request of one of them waits from now on."""
        if not account.num_waiting:
            account.spent = max(account.spent, self._now)
        account.num_waiting += 1

    def serve(self, account: Account) -> None:
        """One of them was chosen."""
        self._now = max(self._now, account.spent)
