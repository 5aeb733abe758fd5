"""clusters/kuberay.yaml: its fields are known, Ray reads it, and it does what the docs promise.

The schema that KubeRay publishes is checked where it is at hand:
`WPM_KUBERAY_CRD=ray.io_rayjobs.yaml python -m pytest tests/cluster/test_kuberay.py`.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator, ValidationError  # type: ignore[import-untyped]

from tests.support.kuberay import KUBERAY, OURS, close, published_schema
from wpm.cli.arguments import build_parser

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "clusters" / "kuberay.yaml"
VOLUME = ROOT / "clusters" / "kuberay-volume.yaml"
IMAGE = ROOT / "clusters" / "Dockerfile"
DOCS = ROOT / "docs" / "kubernetes.md"
CODE, SHARED = "/opt/wpm", "/mnt/wpm"
CRD = os.environ.get("WPM_KUBERAY_CRD")

Document = dict[str, Any]


def load() -> dict[str, Document]:
    """Return the documents of both files by kind, in which no part stands at two places."""
    texts = [path.read_text(encoding="utf-8") for path in (FILE, VOLUME)]
    documents = [document for text in texts for document in yaml.safe_load_all(text)]
    assert len({d["kind"] for d in documents}) == len(documents)
    return {d["kind"]: copy_apart(d) for d in documents}


def copy_apart(part: Any) -> Any:
    """Copy without the sharing that YAML's anchors leave."""
    if isinstance(part, dict):
        return {key: copy_apart(value) for key, value in part.items()}
    return [copy_apart(value) for value in part] if isinstance(part, list) else part


def cluster() -> Document:
    spec: Document = load()["RayJob"]["spec"]["rayClusterSpec"]
    return spec


def head_pod(job: Document) -> Document:
    pod: Document = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    return pod


def worker_group(job: Document) -> Document:
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert isinstance(group, dict)
    return group


def pods() -> dict[str, Document]:
    job = load()["RayJob"]
    return {"head": head_pod(job), "worker": worker_group(job)["template"]}


def container_of(pod: Document) -> Document:
    (container,) = pod["spec"]["containers"]
    assert isinstance(container, dict)
    return container


@cache
def published() -> Draft202012Validator:
    if CRD is None:
        pytest.skip(f"set WPM_KUBERAY_CRD to ray.io_rayjobs.yaml of KubeRay {KUBERAY}")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load(Path(CRD).read_text(encoding="utf-8"), loader)
    return Draft202012Validator(published_schema(definition))


def ours() -> Draft202012Validator:
    return Draft202012Validator(OURS["RayJob"])


validators = pytest.mark.parametrize("validator", [ours, published] if CRD else [ours])
roles = pytest.mark.parametrize("role", ["head", "worker"])


@pytest.mark.parametrize("kind", OURS)
def test_fields_are_known(kind: str) -> None:
    documents = load()
    assert documents.keys() == OURS.keys()
    Draft202012Validator.check_schema(OURS[kind])
    Draft202012Validator(OURS[kind]).validate(documents[kind])


def test_kuberay_accepts_the_job() -> None:
    published().validate(load()["RayJob"])


def misspell_a_field_of_the_job(job: Document) -> None:
    job["spec"]["shutDownAfterJobFinishes"] = job["spec"].pop("shutdownAfterJobFinishes")


def misspell_a_field_of_the_cluster(job: Document) -> None:
    job["spec"]["rayClusterSpec"]["enableInTreeAutoScaling"] = True


def put_grace_period_on_the_container(job: Document) -> None:
    container_of(head_pod(job))["terminationGracePeriodSeconds"] = 120


def put_hook_beside_lifecycle(job: Document) -> None:
    container = container_of(worker_group(job)["template"])
    container["preStop"] = container.pop("lifecycle")["preStop"]


def put_medium_on_the_volume(job: Document) -> None:
    head_pod(job)["spec"]["volumes"][1]["medium"] = "Memory"


def write_maximum_as_text(job: Document) -> None:
    worker_group(job)["maxReplicas"] = "8"


def leave_out_the_maximum(job: Document) -> None:
    del worker_group(job)["maxReplicas"]


def write_memory_in_words(job: Document) -> None:
    container_of(head_pod(job))["resources"]["limits"]["memory"] = "24 GB"


def ask_for_another_autoscaler(job: Document) -> None:
    job["spec"]["rayClusterSpec"]["autoscalerOptions"]["version"] = "3"


@validators
@pytest.mark.parametrize(
    "spoil",
    [
        misspell_a_field_of_the_job, misspell_a_field_of_the_cluster,
        put_grace_period_on_the_container, put_hook_beside_lifecycle, put_medium_on_the_volume,
        write_maximum_as_text, leave_out_the_maximum, write_memory_in_words,
        ask_for_another_autoscaler,
    ],
)  # fmt: skip
def test_wrong_field_is_refused(
    validator: Callable[[], Draft202012Validator], spoil: Callable[[Document], None]
) -> None:
    job = load()["RayJob"]
    spoil(job)
    with pytest.raises(ValidationError):
        validator().validate(job)


def test_published_schema_is_closed_where_kubernetes_drops_fields() -> None:
    """By hand: what is listed stays, other keys go, unless they are labels or are to be kept."""
    labels = {"type": "object", "additionalProperties": {"type": "string"}}
    kept = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    empty = {"type": "object"}
    parts = {"labels": labels, "kept": kept, "pods": {"type": "array", "items": empty}}
    schema = close({"type": "object", "properties": parts})
    valid: list[Document] = [{}, {"labels": {"a": "b"}}, {"kept": {"a": 1}}, {"pods": [{}]}]
    wrong: list[Document] = [{"other": 1}, {"labels": {"a": 1}}, {"pods": [{"a": 1}]}]
    validator = Draft202012Validator(schema)
    assert [validator.is_valid(x) for x in (*valid, *wrong)] == [True] * 4 + [False] * 3


def test_ray_reads_the_cluster() -> None:
    """The autoscaler that KubeRay starts: this is what it makes of the file."""
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )

    resource = {"metadata": {"name": "wpm", "namespace": "default"}, "spec": cluster()}
    config = _derive_autoscaling_config_from_ray_cr(resource)
    assert config["idle_timeout_minutes"] == 10
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    (worker,) = types.values()
    assert (worker["min_workers"], worker["max_workers"]) == (0, 8)
    assert head["max_workers"] == 0
    for node in (head, worker):
        assert node["resources"]["GPU"] == 1, "a search without a GPU at its start would use CPUs"
        assert node["resources"]["CPU"] >= 2


def test_job_continues_and_ends_its_cluster() -> None:
    spec = load()["RayJob"]["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"] is True


def test_entrypoint_is_a_command_of_ours_on_the_shared_volume() -> None:
    python, script, *flags = shlex.split(load()["RayJob"]["spec"]["entrypoint"])
    assert (python, script) == ("python", "launch.py")
    options = build_parser(None).parse_args(flags)
    assert options.address == "auto"
    folders = [options.run_root, options.work_root, options.weights]
    assert [str(folder).startswith(f"{SHARED}/") for folder in folders] == [True] * 3


@roles
def test_pods_share_a_volume_and_have_shared_memory(role: str) -> None:
    pod = pods()[role]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounts = {m["mountPath"]: volumes[m["name"]] for m in container_of(pod)["volumeMounts"]}
    claim = load()["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert mounts[SHARED]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"


@roles
def test_pods_have_the_image_and_run_in_its_folder(role: str) -> None:
    container = container_of(pods()[role])
    assert container["image"] == container_of(pods()["head"])["image"]
    assert container["workingDir"] == CODE
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" in [taint["key"] for taint in pods()[role]["spec"]["tolerations"]]
    assert not [entry for entry in container["env"] if entry["name"].startswith("TUNE_")]


def test_ray_asks_for_a_token_and_strangers_reach_no_port() -> None:
    assert cluster()["authOptions"] == {"mode": "token"}
    policy = load()["NetworkPolicy"]["spec"]
    for pod in pods().values():
        assert pod["metadata"]["labels"] == policy["podSelector"]["matchLabels"]
    assert policy["policyTypes"] == ["Ingress"]
    ((own, operator),) = [rule["from"] for rule in policy["ingress"]]
    assert own == {"podSelector": policy["podSelector"]}
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}


def test_version_of_ray_is_the_pinned_one() -> None:
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={cluster()['rayVersion']}" in pins


def test_worker_that_is_taken_away_warns_its_trials_first() -> None:
    pod = pods()["worker"]
    python, script, flag = container_of(pod)["lifecycle"]["preStop"]["exec"]["command"]
    assert python == "python"
    source = ROOT / Path(script).relative_to(CODE)
    assert f'"{flag}",' in source.read_text(encoding="utf-8")
    assert pod["spec"]["terminationGracePeriodSeconds"] >= 120, "as long as AWS gives"


def test_head_that_is_taken_away_interrupts_the_search_once_and_waits(tmp_path: Path) -> None:
    """With a `pkill` and a `pgrep` that are played; the search has ended at the third look."""
    play(tmp_path / "pkill", 'echo "pkill $*" >> called')
    play(tmp_path / "pgrep", 'echo "pgrep $*" >> called; [ $(grep -c pgrep called) -lt 3 ]')
    play(tmp_path / "sleep", "")
    command = container_of(pods()["head"])["lifecycle"]["preStop"]["exec"]["command"]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=60)
    which = "-f ^python launch.py --address"
    called = (tmp_path / "called").read_text().splitlines()
    assert called == [f"pkill -TERM {which}", *[f"pgrep {which}"] * 3]


def play(program: Path, code: str) -> None:
    program.write_text(f"#!/bin/sh\n{code}\n")
    program.chmod(0o755)


def test_head_means_the_process_that_the_entrypoint_starts() -> None:
    (command,) = container_of(pods()["head"])["lifecycle"]["preStop"]["exec"]["command"][2:]
    (pattern,) = set(re.findall(r"p(?:kill -TERM|grep) -f '([^']+)'", command))
    assert re.search(pattern, load()["RayJob"]["spec"]["entrypoint"])
    assert not re.search(pattern, f"bash -c {command}"), "it would end itself"
    assert not re.search(pattern, "python launch.py --serve --run-root /mnt/wpm/runs")


def test_head_waits_longer_than_ray_does() -> None:
    pod = pods()["head"]
    environment = {entry["name"]: entry["value"] for entry in container_of(pod)["env"]}
    assert environment["RAY_JOB_STOP_WAIT_TIME_S"] == "60"
    assert pod["spec"]["terminationGracePeriodSeconds"] > 60


def test_image_has_one_commit_and_its_pinned_versions() -> None:
    text = re.sub(r"\\\n\s*", "", IMAGE.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "FROM python:3.13-slim"
    assert lines[-1] == f"WORKDIR {CODE}"
    assert f"RUN git clone --quiet /tmp/wpm.bundle {CODE}" in lines
    (install,) = [line for line in lines if "pip install" in line]
    assert install.endswith(f"-r {CODE}/clusters/requirements.txt")
    docs = DOCS.read_text(encoding="utf-8")
    assert "git bundle create build/cluster/wpm.bundle HEAD" in docs
    assert re.search(r"docker build -f clusters/Dockerfile .*build/cluster$", docs, re.MULTILINE)


def test_user_of_the_pods_owns_the_code() -> None:
    """Git reads no repository of another user, and every record names the commit."""
    text = IMAGE.read_text(encoding="utf-8")
    (user,) = re.findall(r"useradd --uid (\d+)", text)
    assert text.index("USER wpm") < text.index("git clone")
    for pod in pods().values():
        assert pod["spec"]["securityContext"]["runAsUser"] == int(user)


def test_file_holds_no_secret_and_the_docs_say_that_it_was_not_tried() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert not re.search(r"RAY_AUTH_TOKEN|password|\b[0-9a-f]{32,}\b", text, re.IGNORECASE)
    docs = DOCS.read_text(encoding="utf-8")
    assert "Never tried on a cluster" in docs
    assert f"KubeRay {KUBERAY}" in docs


def test_end_of_the_search_keeps_the_volume() -> None:
    kinds = [d["kind"] for d in yaml.safe_load_all(FILE.read_text(encoding="utf-8"))]
    assert kinds == ["NetworkPolicy", "RayJob"], "kubectl delete -f removes what the file names"
