"""What clients that contend have had: tokens by weight. Who has had the least goes first.

A virtual counter for each client that has requests, as in "Fairness in Serving Large Language Models" (OSDI 2024): it
grows by the tokens of prompts that were run for the client and by those that were generated, a token counting for
less the more weight its request has. Who comes back to the queue begins where the others stand, and has saved nothing
up; a counter without requests is forgotten. So where one client is alone this decides nothing.
"""

from __future__ import annotations

__all__ = ["Account", "Shares"]


class Account:
    """One client's counter."""

    __slots__ = ("client", "num_requests", "num_waiting", "number", "spent")

    def __init__(self, client: str | None, number: int, spent: float) -> None:
        self.client = client
        self.number = number
        """In the order of their coming: of equals, the first goes first."""
        self.spent = spent
        self.num_requests = 0
        self.num_waiting = 0

    def __repr__(self) -> str:
        return f"<Account {self.client!r} spent={self.spent:.0f} requests={self.num_requests}>"

    def charge(self, tokens: int, weight: float) -> None:
        """Count tokens that were run for it; below 0, take back what was counted too much."""
        self.spent += tokens / weight


class Shares:
    """The accounts of all clients that have requests. Requests that name no client are one client's."""

    def __init__(self) -> None:
        self._accounts: dict[str | None, Account] = {}
        self._now = 0.0
        """What the client had spent that was served last: where who comes begins."""
        self._next = 0

    def __repr__(self) -> str:
        return f"<Shares {[*self._accounts.values()]}>"

    def __len__(self) -> int:
        return len(self._accounts)

    def join(self, client: str | None) -> Account:
        """The account of a request that has come."""
        account = self._accounts.get(client)
        if account is None:
            account = self._accounts[client] = Account(client, self._next, self._now)
            self._next += 1
        account.num_requests += 1
        return account

    def leave(self, account: Account) -> None:
        """A request is over."""
        account.num_requests -= 1
        if not account.num_requests:
            del self._accounts[account.client]
            if not self._accounts:
                self._now = 0.0

    def wait(self, account: Account) -> None:
        """One of its requests waits from now on."""
        if not account.num_waiting:
            account.spent = max(account.spent, self._now)
        account.num_waiting += 1

    def serve(self, account: Account) -> None:
        """One of them waits no longer, because it was chosen."""
        self._now = max(self._now, account.spent)
