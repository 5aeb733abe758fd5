"""Which fields clusters/kuberay.yaml may have: a schema of our own, and the published one.

Kubernetes drops a field that it does not know without a word, so both refuse unknown fields. Our
own lists the fields that the file uses, with their types and choices. The published schema is
KubeRay's CustomResourceDefinition of RayJob, 1.5 MB of generated text, and is not kept here.
`close` makes the text, as downloaded, refuse what Kubernetes would drop.
"""

from typing import Any

Schema = dict[str, Any]

KUBERAY = "1.7.0"  # the release whose fields these are
TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
YES_OR_NO: Schema = {"type": "boolean"}
QUANTITY: Schema = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|[kMGT]|[KMGT]i)?$"}


def record(required: str = "", **fields: Schema) -> Schema:
    """Return the schema of an object that has these fields and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": required.split(),
        "additionalProperties": False,
    }


def several(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def named(value: Schema) -> Schema:
    """Return the schema of an object whose keys the user chooses, such as labels."""
    return {"type": "object", "additionalProperties": value}


def one_of(*choices: str) -> Schema:
    return {"enum": list(choices)}


def document(version: str, kind: str, spec: Schema) -> Schema:
    return record(
        "apiVersion kind metadata spec",
        apiVersion=one_of(version),
        kind=one_of(kind),
        metadata=record("name", name=TEXT, namespace=TEXT, labels=named(TEXT)),
        spec=spec,
    )


_HOOK = record("exec", exec=record("command", command=several(TEXT)))
_LIMITS = named(QUANTITY)
_CONTAINER = record(
    "name image resources",
    name=TEXT,
    image=TEXT,
    workingDir=TEXT,
    env=several(record("name value", name=TEXT, value={"type": "string"})),
    resources=record("requests limits", requests=_LIMITS, limits=_LIMITS),
    lifecycle=record(preStop=_HOOK),
    volumeMounts=several(record("name mountPath", name=TEXT, mountPath=TEXT)),
)
_VOLUME = record(
    "name",
    name=TEXT,
    persistentVolumeClaim=record("claimName", claimName=TEXT),
    emptyDir=record(medium=one_of("Memory"), sizeLimit=QUANTITY),
)
_TOLERATION = record(
    key=TEXT,
    operator=one_of("Exists", "Equal"),
    value=TEXT,
    effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
)
_POD = record(
    "metadata spec",
    metadata=record(labels=named(TEXT), annotations=named(TEXT)),
    spec=record(
        "containers",
        restartPolicy=one_of("Always", "OnFailure", "Never"),
        terminationGracePeriodSeconds=COUNT,
        securityContext=record(
            runAsNonRoot=YES_OR_NO,
            runAsUser=COUNT,
            runAsGroup=COUNT,
            fsGroup=COUNT,
            fsGroupChangePolicy=one_of("Always", "OnRootMismatch"),
        ),
        nodeSelector=named(TEXT),
        tolerations=several(_TOLERATION),
        containers=several(_CONTAINER),
        volumes=several(_VOLUME),
    ),
)
_CLUSTER = record(
    "headGroupSpec workerGroupSpecs",
    rayVersion=TEXT,
    authOptions=record(mode=one_of("token", "disabled")),
    enableInTreeAutoscaling=YES_OR_NO,
    autoscalerOptions=record(version=one_of("v1", "v2"), idleTimeoutSeconds=COUNT),
    headGroupSpec=record("template", rayStartParams=named(TEXT), template=_POD),
    workerGroupSpecs=several(
        record(
            "groupName minReplicas maxReplicas template",
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=named(TEXT),
            template=_POD,
        )
    ),
)
_SELECTOR = record(matchLabels=named(TEXT))

OURS = {
    "PersistentVolumeClaim": document(
        "v1",
        "PersistentVolumeClaim",
        record(
            "accessModes resources",
            accessModes=several(one_of("ReadWriteMany")),
            storageClassName=TEXT,
            resources=record("requests", requests=_LIMITS),
        ),
    ),
    "NetworkPolicy": document(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        record(
            "podSelector policyTypes",
            podSelector=_SELECTOR,
            policyTypes=several(one_of("Ingress", "Egress")),
            ingress=several(
                record(
                    "",
                    **{"from": several(record(podSelector=_SELECTOR, namespaceSelector=_SELECTOR))},
                )
            ),
        ),
    ),
    "RayJob": document(
        "ray.io/v1",
        "RayJob",
        record(
            "entrypoint rayClusterSpec",
            entrypoint=TEXT,
            submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
            backoffLimit=COUNT,
            shutdownAfterJobFinishes=YES_OR_NO,
            rayClusterSpec=_CLUSTER,
        ),
    ),
}


def close(schema: Schema) -> Schema:
    """Return a schema of Kubernetes that refuses the fields which Kubernetes would drop.

    An object drops what it does not list, unless it says what other keys hold or asks to keep
    unknown fields. A field that may hold a number or a text comes without a type.
    """
    closed = dict(schema)
    if "properties" in schema:
        closed["properties"] = {name: close(part) for name, part in schema["properties"].items()}
    if isinstance(schema.get("items"), dict):
        closed["items"] = close(schema["items"])
    others = schema.get("additionalProperties")
    if isinstance(others, dict):
        closed["additionalProperties"] = close(others)
    keeps = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if schema.get("type") == "object" and others is None and not keeps:
        closed["additionalProperties"] = False
    return closed


def published_schema(definition: dict[str, Any]) -> Schema:
    """Return the closed schema of version v1 from a CustomResourceDefinition.

    The object's own metadata is a plain object there: the API server itself checks it.
    """
    (version,) = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    schema = close(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema
