"""`python -m greenroom.worker MODEL --hostfile F --rank N`: be one of the machines that hold a model together.

It waits for rank 0, `Runtime(MODEL, distributed=F)`, and ends with it: with 0 as it should, with 3 where the group is
over too early, with 1 where it cannot be part of the group.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys

from greenroom.backends import understudy
from greenroom.backends.ranks.follower import end_process
from greenroom.backends.ranks.hostfile import read_hostfile
from greenroom.errors import GreenroomError, RankLost

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run it; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        size = len(read_hostfile(options.hostfile).ranks)
        if not 0 < options.rank < size:
            _say(f"--rank must be 1 to {size - 1}: rank 0 is the app, and {options.hostfile} lists {size} machines")
            return 2
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what waits inside of MLX hears nobody
        from greenroom.backends.mlx.group import run_worker

        run_worker(
            options.model or understudy.path(),
            options.hostfile,
            options.rank,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            ready=_say,
        )
    except RankLost as error:
        end_process(str(error))
    except GreenroomError as error:
        _say(f"{type(error).__name__}: {error}")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m greenroom.worker", description="Hold a part of a model for rank 0.")
    parser.add_argument("model", nargs="?", help="a folder, or a name on the hub; none: the bundled model")
    parser.add_argument("--hostfile", required=True, metavar="F", help="the machines, in the order of their ranks")
    launched = os.environ.get("MLX_RANK", "")
    parser.add_argument(
        "--rank",
        type=int,
        metavar="N",
        required=not launched.isdecimal(),
        default=int(launched) + 1 if launched.isdecimal() else None,
        help="which of them this is, from 1 on; started by mlx.launch, it is one more than its rank there",
    )
    parser.add_argument("--revision", help="a branch, a tag or a commit of a name on the hub")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code that the model brings")
    return parser


def _say(text: str) -> None:
    sys.stderr.write(f"greenroom: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
