"""Files that list machines: mlx.launch's and the ring's, what MLX is told of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from greenroom.backends.ranks.hostfile import read_hostfile
from greenroom.errors import GreenroomError, InvalidHostfile, UnusablePath

LAUNCHED = [
    {"ssh": "mac1", "ips": ["10.0.0.1", "10.0.1.1"], "rdma": [None, "rdma_en2"]},
    {"ssh": "mac2", "ips": ["10.0.0.2"], "rdma": ["rdma_en3", None]},
]


def written(folder: Path, content: object) -> Path:
    """A file with `content` as JSON, or as it is."""
    path = folder / "hosts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("content", [LAUNCHED, {"hosts": LAUNCHED, "envs": ["A=1"], "backend": "ring"}])
def test_the_list_of_mlx_launch_is_read(tmp_path: Path, content: object) -> None:
    """Ports are counted on as mlx.launch counts them, and plans go a hundred above the first of each rank."""
    found = read_hostfile(written(tmp_path, content))
    assert [each.ring for each in found.ranks] == [("10.0.0.1:32323", "10.0.1.1:32324"), ("10.0.0.2:32325",)]
    assert [each.plans for each in found.ranks] == [("10.0.0.1", 32423), ("10.0.0.2", 32425)]
    assert found.mlx_backend == "ring"


def test_the_list_of_the_ring_is_read_and_written_for_mlx(tmp_path: Path) -> None:
    """What MLX reads is what was given, in a file that is gone afterwards."""
    content = [["127.0.0.1:5000"], ["127.0.0.1:5001"]]
    hosts = read_hostfile(written(tmp_path, content))
    with hosts.environment(1) as variables:
        path = Path(variables["MLX_HOSTFILE"])
        assert json.loads(path.read_text()) == content
        assert variables["MLX_RANK"] == "1"
    assert not path.exists()


def test_devices_and_a_coordinator_are_told_to_jaccl(tmp_path: Path) -> None:
    """In the form of its variables."""
    hosts = read_hostfile(written(tmp_path, {"backend": "jaccl", "hosts": LAUNCHED}))
    assert hosts.mlx_backend == "jaccl"
    with hosts.environment(0) as variables:
        assert json.loads(Path(variables["MLX_IBV_DEVICES"]).read_text()) == [each["rdma"] for each in LAUNCHED]
        assert variables["MLX_JACCL_COORDINATOR"] == "10.0.0.1:32323"


def test_plans_may_have_an_address_of_their_own(tmp_path: Path) -> None:
    """Where not all machines reach each other by the links of the ring."""
    hosts = read_hostfile(written(tmp_path, [{"ips": ["10.0.0.1"], "plans": "192.168.0.7"}, {"ips": ["10.0.0.2"]}]))
    assert hosts.ranks[0].plans == ("192.168.0.7", 32423)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "not as mlx.launch"),
        ("[" * 100_000, "not as mlx.launch"),
        ("7", "not as mlx.launch"),
        ([["10.0.0.1:5000"]], "two machines at least"),
        ([[], ["10.0.0.1:5000"]], "rank 0 has no address"),
        ([["mac1:5000"], ["10.0.0.1:5000"]], "'mac1:5000' of rank 0 is no address"),
        ([["10.0.0.1:5000"], ["10.0.0.1:99999"]], "port 99999 of rank 1"),
        ([["10.0.0.1:5000"], ["10.0.0.1:5000"]], "stands for two"),
        ({"backend": "mpi", "hosts": LAUNCHED}, "must be one of ring"),
        ({"backend": "jaccl", "hosts": [{"ips": ["10.0.0.1"]}, {"ips": ["10.0.0.2"]}]}, "must have 2 devices"),
        (
            {"backend": "jaccl", "hosts": [{"ips": ["10.0.0.1"], "rdma": [None, None]}, LAUNCHED[1]]},
            "no device by which it reaches rank 1",
        ),
    ],
)
def test_what_is_no_such_list_is_refused(tmp_path: Path, content: object, why: str) -> None:
    """With the file and what it lacks."""
    path = written(tmp_path, content)
    with pytest.raises(InvalidHostfile, match=why) as caught:
        read_hostfile(path)
    assert str(path) in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder, and nothing."""
    with pytest.raises(UnusablePath):
        read_hostfile(tmp_path)
    with pytest.raises(GreenroomError, match="there is no such file"):
        read_hostfile(tmp_path / "none")
