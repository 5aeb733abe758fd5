"""The cluster files pass Ray's own validation, and keep what docs/cluster.md promises of them."""

import itertools
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from wpm.cluster.node_kinds import prefer_kinds_in_stock

ROOT = Path(__file__).resolve().parents[2]
CLOUDS = [ROOT / "cluster.yaml", ROOT / "clusters" / "gcp.yaml"]
ON_PREMISE = ROOT / "clusters" / "on-premise.yaml"
CLUSTERS = [*CLOUDS, ON_PREMISE]
FOUNDATION = ROOT / "clusters" / "aws-foundation.yaml"
NODES = ROOT / "clusters" / "requirements.txt"
LISTS = [ROOT / "requirements.txt", ROOT / "requirements-dev.txt", NODES]
INCLUDED = "-r "
HEAD_ADDRESS = "192.0.2.2"  # of a block that no network uses


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def pins_in(path: Path) -> dict[str, str]:
    """Return the version that a list itself names for each package, without what it includes."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pins = [line.partition("==") for line in lines if not line.startswith(("#", INCLUDED))]
    versions: dict[str, str] = {canonicalize_name(name): version for name, _, version in pins}
    assert len(versions) == len(pins), "a package is named twice"
    return versions


def includes_of(path: Path) -> list[Path]:
    lines = path.read_text(encoding="utf-8").splitlines()
    included = [line.removeprefix(INCLUDED) for line in lines if line.startswith(INCLUDED)]
    return [(path.parent / name).resolve() for name in included]


def start_ray(command: str, folder: Path, before: str = "") -> dict[str, str]:
    """Run a start command in a shell as `ray up` does, with a `ray` that does nothing.

    Args:
        command: of the cluster file.
        folder: an empty one; the home folder of the node.
        before: commands that the shell runs first, such as one that lowers a limit.

    Returns:
        What `ray` was called with: `arguments`, `files` (how many it may open), and the
        environment variables.

    Raises:
        CalledProcessError: if the command fails, and `ray up` with it.
    """
    from ray.autoscaler._private.util import with_envs

    (folder / "wpm").mkdir()
    ray = folder / "ray"
    ray.write_text('#!/bin/sh\necho "arguments=$*"\necho "files=$(ulimit -n)"\nenv\n')
    ray.chmod(0o755)
    exports = {
        "RAY_enable_autoscaler_v2": "1",
        "RAY_HEAD_IP": "head",
        "RAY_USAGE_STATS_ENABLED": "1",
    }
    exported = "".join(with_envs([command], exports))
    answer = subprocess.run(
        ["bash", "-c", f"{before}\n{exported}"],
        env={
            "HOME": str(folder),
            "PATH": f"{folder}:/usr/bin:/bin",
            "SSH_CONNECTION": f"192.0.2.1 50000 {HEAD_ADDRESS} 22",
        },
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(line.partition("=")[::2] for line in answer.stdout.splitlines())


def commands_of(config: dict[str, Any]) -> list[str]:
    return [c for key, value in config.items() if key.endswith("_commands") for c in value]


clusters = pytest.mark.parametrize("path", CLUSTERS, ids=lambda p: p.stem)
clouds = pytest.mark.parametrize("path", CLOUDS, ids=lambda p: p.stem)


@clusters
def test_ray_accepts_the_file(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(load(path)))


@clusters
def test_start_commands_ask_for_a_token_and_keep_the_dashboard_private(path: Path) -> None:
    config = load(path)
    head, worker = config["head_start_ray_commands"][1], config["worker_start_ray_commands"][1]
    assert "--dashboard-host=127.0.0.1 " in head
    for command in (head, worker):
        assert "RAY_AUTH_MODE=token " in command.partition("ray start")[0]
    (environment,) = [c for c in config["setup_commands"] if "export PATH" in c]
    assert " RAY_AUTH_MODE=token " in environment, "jobs and shells speak to Ray as well"


@clusters
def test_head_reports_nothing_to_the_makers_of_ray(path: Path, tmp_path: Path) -> None:
    """`ray up` exports the opposite, and after the environment of `~/.bashrc` has been read."""
    command = load(path)["head_start_ray_commands"][1]
    assert start_ray(command, tmp_path)["RAY_USAGE_STATS_ENABLED"] == "0"


@clusters
def test_nodes_install_the_pinned_versions_of_one_commit(path: Path) -> None:
    config = load(path)
    commands = config["setup_commands"]
    assert "rm -rf ~/wpm && git clone --quiet ~/wpm_bundle/wpm.bundle ~/wpm" in commands
    installed = [c.rsplit(INCLUDED, 1)[1] for c in commands if "pip install" in c]
    assert installed == ["~/wpm/clusters/requirements.txt"], "two commands would undo each other"
    assert includes_of(NODES) == [ROOT / "requirements.txt"]
    assert "faiss-gpu" in pins_in(ROOT / "requirements.txt")


@clusters
def test_code_travels_in_a_folder_that_the_docs_fill(path: Path) -> None:
    """A folder, as Ray asks for: in Docker, a file that is mounted need not follow its original."""
    mounts = load(path)["file_mounts"]
    assert "~/wpm_bundle/wpm.bundle" in "".join(load(path)["setup_commands"])
    docs = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    folder = mounts["~/wpm_bundle"]
    assert f"mkdir -p {folder} && git bundle create {folder}/wpm.bundle HEAD" in docs


@pytest.mark.parametrize("path", LISTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_lists_of_packages_have_exact_versions(path: Path) -> None:
    for name, version in pins_in(path).items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert re.fullmatch(r"\d[\w.]*", version)


def test_lists_of_packages_agree_on_what_they_share() -> None:
    """Otherwise each command that installs one list undoes what another has installed."""
    for one, other in itertools.combinations(map(pins_in, LISTS), 2):
        shared = one.keys() & other.keys()
        assert {name: one[name] for name in shared} == {name: other[name] for name in shared}


def test_packages_accept_one_another() -> None:
    """What each asks for, as far as it is installed here in the version that is pinned."""
    pins = {name: version for path in LISTS for name, version in pins_in(path).items()}
    asked = [
        (name, Requirement(line))
        for name, version in pins.items()
        for line in wanted_by(name, version)
    ]
    assert len(asked) > 50
    refused = [
        f"{name} asks for {wish}, pinned is {pins[canonicalize_name(wish.name)]}"
        for name, wish in asked
        if (wish.marker is None or wish.marker.evaluate({"extra": ""}))
        and canonicalize_name(wish.name) in pins
        and pins[canonicalize_name(wish.name)] not in wish.specifier
    ]
    assert refused == []


def wanted_by(name: str, version: str) -> list[str]:
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return []
    return package.requires or [] if package.version == version else []


@clusters
@pytest.mark.parametrize("role", ["head", "worker"])
@pytest.mark.parametrize("hard", [4096, 100000])
def test_limit_of_open_files_is_raised_as_far_as_allowed(
    path: Path, role: str, hard: int, tmp_path: Path
) -> None:
    command = load(path)[f"{role}_start_ray_commands"][1]
    lower = f"ulimit -Sn 1024 && ulimit -Hn {hard} || exit 77"
    try:
        called = start_ray(command, tmp_path, lower)
    except subprocess.CalledProcessError as error:
        if error.returncode == 77:
            pytest.skip(f"this machine allows fewer than {hard} open files")
        raise
    assert int(called["files"]) == min(hard, 65536)


@clouds
def test_only_several_kinds_of_worker_need_the_first_autoscaler(path: Path, tmp_path: Path) -> None:
    """The second, which `ray up` asks for, never asks for another kind than one sold out."""
    from ray.autoscaler._private.loader import load_function_or_class

    config = load(path)
    kinds = set(config["available_node_types"]) - {config["head_node_type"]}
    called = start_ray(config["head_start_ray_commands"][1], tmp_path)
    assert called["RAY_enable_autoscaler_v2"] == ("0" if len(kinds) > 1 else "1")
    if len(kinds) > 1:
        assert called["PYTHONPATH"] == str(tmp_path / "wpm"), "Ray finds our function there"
        name = called["RAY_AUTOSCALER_UTILIZATION_SCORER"]
        assert load_function_or_class(name) is prefer_kinds_in_stock


def test_own_machines_are_started_by_the_first_autoscaler(tmp_path: Path) -> None:
    """The second, which `ray up` asks for, counts the head among them and starts one too few."""
    command = load(ON_PREMISE)["head_start_ray_commands"][1]
    assert start_ray(command, tmp_path)["RAY_enable_autoscaler_v2"] == "0"


def test_own_head_answers_at_the_address_that_ssh_reached(tmp_path: Path) -> None:
    """Without a way to the internet, Ray would take 127.0.0.1, which no worker reaches."""
    command = load(ON_PREMISE)["head_start_ray_commands"][1]
    arguments = start_ray(command, tmp_path)["arguments"].split()
    assert f"--node-ip-address={HEAD_ADDRESS}" in arguments


@clouds
def test_workers_are_spot_nodes_that_come_and_go(path: Path) -> None:
    config = load(path)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["max_workers"] == 0
    assert not is_spot(head["node_config"])
    for worker in types.values():
        assert is_spot(worker["node_config"])
        assert worker["min_workers"] == 0
        assert worker["max_workers"] == config["max_workers"]
    assert config["idle_timeout_minutes"] > 0
    assert config["provider"]["cache_stopped_nodes"] is False


def is_spot(node: dict[str, Any]) -> bool:
    aws = node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    return bool(aws or node.get("scheduling", {}).get("provisioningModel") == "SPOT")


def test_aws_spot_workers_watch_for_the_announcement_of_their_end() -> None:
    """After Ray has started, and in the background, or `ray up` would wait for it forever."""
    config = load(ROOT / "cluster.yaml")
    *_, start, watch = config["worker_start_ray_commands"]
    assert "ray start --address" in start
    script = watch.partition("setsid --fork python ")[2].split()[0]
    assert (ROOT / script).is_file()
    assert watch.endswith("2>&1 < /dev/null")


@clusters
def test_nothing_is_set_that_the_launch_sets_itself(path: Path) -> None:
    assert not [c for c in commands_of(load(path)) if "TUNE_" in c]


def test_every_line_of_the_aws_file_is_explained() -> None:
    """Each key by its name in docs/cluster.md, or in a comment beside it."""
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    docs = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    keys = {key.strip() for key in re.findall(r"^ *(?:- )?([A-Za-z_]\w*):(?= |$)", text, re.M)}
    assert len(keys) > 30
    assert sorted(key for key in keys if f"`{key}" not in docs) == []


@clouds
def test_shared_folder_is_mounted_before_anything_else_can_fail(path: Path) -> None:
    commands = load(path)["setup_commands"]
    (mount,) = [i for i, c in enumerate(commands) if c.startswith("mountpoint -q /mnt/wpm || ")]
    assert "nfsvers=4.1" in commands[mount], "locks of NFS 3 need a daemon of their own"
    assert not any("pip" in command for command in commands[:mount])


@clouds
@pytest.mark.parametrize("installed", [True, False])
def test_packages_of_the_system_are_installed_where_they_are_missing(
    path: Path, installed: bool, tmp_path: Path
) -> None:
    """The first update fails, as it does while a machine that has just booted updates its lists."""
    (command,) = [c for c in load(path)["setup_commands"] if "apt-get" in c]
    for name, script in (
        ("dpkg", f"exit {0 if installed else 1}"),
        ("sudo", 'exec env "$@"'),
        ("sleep", ""),
        ("apt-get", 'echo "$DEBIAN_FRONTEND|$*" >> $HOME/asked; [ $(wc -l < $HOME/asked) -gt 1 ]'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["bash", "-c", command], env=environment, check=True, timeout=30)
    if installed:
        assert not (tmp_path / "asked").exists()
        return
    first, second, install = (tmp_path / "asked").read_text().splitlines()
    assert first == second == "|-qq update"
    assert install.startswith("noninteractive|"), "the command runs on a terminal"
    assert install.endswith("install -y git nfs-common python3-venv")


@clusters
def test_files_hold_no_secret(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "~/.ray/auth_token: ~/.ray/auth_token" in text
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|\b[0-9a-f]{32,}\b", text)
    assert not re.search(r"RAY_AUTH_TOKEN=|aws_secret|password", text, re.IGNORECASE)


def test_aws_nodes_belong_to_a_group_of_the_users_own() -> None:
    """Without one, Ray makes a group that lets ssh in from everywhere."""
    for node in load(ROOT / "cluster.yaml")["available_node_types"].values():
        assert node["node_config"]["SecurityGroupIds"] == ["sg-FILL_IN"]


def test_aws_group_lets_in_ssh_from_given_addresses_and_its_own_members_only() -> None:
    stack = load(FOUNDATION)
    (rule,) = stack["Resources"]["Nodes"]["Properties"]["SecurityGroupIngress"]
    assert (rule["FromPort"], rule["ToPort"], rule["CidrIp"]) == (22, 22, {"Ref": "SshCidr"})
    between = [
        resource["Properties"]
        for resource in stack["Resources"].values()
        if resource["Type"] == "AWS::EC2::SecurityGroupIngress"
    ]
    assert [rule["SourceSecurityGroupId"] for rule in between] == [
        rule["GroupId"] for rule in between
    ]
    allowed = re.compile(stack["Parameters"]["SshCidr"]["AllowedPattern"])
    assert allowed.search("203.0.113.7/32")
    assert not allowed.search("0.0.0.0/0")


def test_aws_zones_have_a_mount_each() -> None:
    zones = load(ROOT / "cluster.yaml")["provider"]["availability_zone"].split(",")
    resources = load(FOUNDATION)["Resources"].values()
    assert len(zones) == sum(r["Type"] == "AWS::EFS::MountTarget" for r in resources)


def test_aws_nodes_are_what_aws_can_be_asked_for() -> None:
    """The request that starts a node, checked against the shapes that boto3 ships."""
    session = pytest.importorskip("botocore.session")
    from botocore.validate import ParamValidator  # type: ignore[import-not-found]

    shape = session.get_session().get_service_model("ec2").operation_model("RunInstances")
    for node in load(ROOT / "cluster.yaml")["available_node_types"].values():
        request = {**node["node_config"], "MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(request, shape.input_shape)
        assert not report.has_errors(), report.generate_report()
