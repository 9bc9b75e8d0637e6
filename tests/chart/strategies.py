"""Hypothesis strategies of valid values, written by hand to match values.schema.json.

Contradictory values are not drawn. test_values.py checks that they are refused.
"""

from typing import Any

from hypothesis import strategies as st

from tests.chart.environment import SERVICES


def some(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw a map with any of these keys."""
    return st.fixed_dictionaries({}, optional=optional)


# Strings that YAML reads as another type, if the chart does not quote them.
TRAPS = st.sampled_from(["y", "on", "no", "null", "true"])
PARTS = st.one_of(
    TRAPS, st.from_regex(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True)
)
NAMES = st.one_of(
    TRAPS, st.from_regex(r"[a-z]([a-z0-9-]{0,60}[a-z0-9])?", fullmatch=True)
)
HOSTS = st.lists(
    st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True),
    min_size=1,
    max_size=4,
).map(".".join)
# Names for which a certificate may be issued.
CERTIFIED = st.one_of(HOSTS, HOSTS.map(lambda host: f"*.{host}"))
SERVERS = st.one_of(HOSTS, st.sampled_from(["2001:db8::1", "::1", "192.0.2.1"]))
KEYS = st.sampled_from(
    ["team", "example.org/cost-centre", "a.b-c_d", "app.kubernetes.io/name", "x/Y"]
)
LABELS = st.dictionaries(
    KEYS,
    st.from_regex(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", fullmatch=True),
)
TEXTS = st.one_of(
    st.sampled_from(
        ["", "yes", "1", "1.0", "null", "a: b", "# a", "{{ a }}", "'", '"', "a\nb", "ж"]
    ),
    st.text(st.characters(exclude_categories=["C"]), max_size=20),
)
ANNOTATIONS = st.dictionaries(KEYS, TEXTS, max_size=3)
SECONDS = st.integers(1, 600)
CPU = st.one_of(st.integers(1, 4), st.sampled_from(["100m", "0.5", "2"]))
MEMORY = st.sampled_from(["64Mi", "1Gi", "500M", "128974848"])
RESOURCES = st.fixed_dictionaries(
    {"requests": st.fixed_dictionaries({"cpu": CPU, "memory": MEMORY})},
    optional={"limits": some(cpu=CPU, memory=MEMORY)},
)
PORTS = st.sampled_from(["health", 8001])
TIMES = some(
    initialDelaySeconds=st.integers(0, 60),
    periodSeconds=SECONDS,
    timeoutSeconds=SECONDS,
    failureThreshold=SECONDS,
)
COMMAND = st.lists(TEXTS, min_size=1, max_size=3)
HTTP_GET = st.fixed_dictionaries({"port": PORTS}, optional={"path": st.just("/a?b=c")})
HANDLER = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"exec": st.fixed_dictionaries({"command": COMMAND})}),
    st.fixed_dictionaries({"tcpSocket": st.fixed_dictionaries({"port": PORTS})}),
    st.fixed_dictionaries({"grpc": st.just({"port": 8001})}),
    st.fixed_dictionaries({"httpGet": HTTP_GET}),
)
PROBE = st.builds(lambda times, handler: times | handler, TIMES, HANDLER)
TOLERATIONS = st.lists(
    st.sampled_from(
        [
            {"operator": "Exists"},
            {
                "key": "dedicated",
                "operator": "Equal",
                "value": "shop",
                "effect": "NoSchedule",
            },
            {
                "key": "gone",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 30,
            },
        ]
    ),
    max_size=2,
)
APART = {
    "topologyKey": "kubernetes.io/hostname",
    "labelSelector": {"matchLabels": {"a": "b"}},
}
ANTI_AFFINITY = {"requiredDuringSchedulingIgnoredDuringExecution": [APART]}
AFFINITY = st.sampled_from([{}, {"podAntiAffinity": ANTI_AFFINITY}])
PLACES: dict[str, st.SearchStrategy[Any]] = {
    "podAnnotations": ANNOTATIONS,
    "nodeSelector": LABELS,
    "tolerations": TOLERATIONS,
    "affinity": AFFINITY,
}


def variables(prefix: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Draw extraEnv, with names that no other setting uses."""
    source = st.one_of(
        TEXTS.map(lambda text: {"value": text}),
        NAMES.map(
            lambda name: {"valueFrom": {"secretKeyRef": {"name": name, "key": "a-key"}}}
        ),
        st.just({"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
    )
    return st.lists(source, max_size=2).map(
        lambda sources: [
            {"name": f"{prefix}_{at}", **each} for at, each in enumerate(sources)
        ]
    )


TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True).filter(
    lambda tag: tag != "latest"
)
REGISTRIES = st.one_of(
    HOSTS, HOSTS.map(lambda host: f"{host}:5000"), HOSTS.map(lambda host: f"{host}/a/b")
)
IMAGE = some(
    registry=REGISTRIES,
    repository=st.sampled_from(["a", "a/b", "a-b/c.d/e_f"]),
    tag=TAGS,
    digest=st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True),
)
SCALED = st.fixed_dictionaries(
    {
        "enabled": st.just(True),
        "minReplicas": st.integers(2, 5),
        "maxReplicas": st.integers(5, 9),
    }
)
SCALING = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"autoscaling": SCALED}),
    st.fixed_dictionaries({"keda": SCALED}),
)
BUDGET = st.one_of(
    st.fixed_dictionaries({"enabled": st.booleans()}),
    st.fixed_dictionaries(
        {"maxUnavailable": st.sampled_from([1, 2, "1%", "50%", "100%"])}
    ),
    st.fixed_dictionaries({"minAvailable": st.sampled_from([1, "50%"])}),
)
SPREAD = st.lists(
    st.fixed_dictionaries(
        {
            "maxSkew": st.integers(1, 3),
            "topologyKey": st.sampled_from(
                ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
            ),
            "whenUnsatisfiable": st.sampled_from(["DoNotSchedule", "ScheduleAnyway"]),
        }
    ),
    max_size=2,
    unique_by=lambda each: (each["topologyKey"], each["whenUnsatisfiable"]),
)


@st.composite
def service(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """Draw the settings of one service, without contradictory ones."""
    scaling = draw(SCALING)
    if name == "gateway" and "keda" in scaling:
        scaling = {"autoscaling": scaling["keda"]}
    stop = draw(st.integers(10, 600))
    own = some(
        image=IMAGE,
        replicas=st.integers(2, 9),
        resources=RESOURCES,
        startupProbe=PROBE,
        livenessProbe=PROBE,
        readinessProbe=PROBE,
        podDisruptionBudget=BUDGET,
        topologySpreadConstraints=SPREAD,
        stopTimeoutSeconds=st.just(stop),
        terminationGracePeriodSeconds=st.just(stop + 700),
        extraEnv=variables(f"OF_{name.upper()}"),
        **PLACES,
    )
    return draw(own) | scaling


NAMESPACE_LABELS = {"kubernetes.io/metadata.name": "a"}
PEERS = st.lists(
    st.sampled_from(
        [
            {"namespaceSelector": {"matchLabels": NAMESPACE_LABELS}},
            {"podSelector": {}},
            {"podSelector": {"matchLabels": {"a": "b"}}, "namespaceSelector": {}},
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
        ]
    ),
    max_size=2,
)
SERVER: dict[str, st.SearchStrategy[Any]] = {
    "existingSecret": NAMES,
    "image": IMAGE,
    "persistence": some(
        enabled=st.booleans(), size=st.sampled_from(["1Gi", "500M"]), storageClass=PARTS
    ),
    "resources": RESOURCES,
    **PLACES,
}
CA = st.builds(
    lambda source, key: {source: "our-ca", **key},
    st.sampled_from(["existingSecret", "existingConfigMap"]),
    some(key=st.sampled_from(["ca.crt", "root.pem"])),
)
DATABASES = st.one_of(
    st.fixed_dictionaries(
        {"postgresql": some(maxConnections=st.integers(20, 900), **SERVER)}
    ),
    st.fixed_dictionaries(
        {
            "postgresql": st.just({"enabled": False}),
            "externalPostgresql": st.fixed_dictionaries(
                {"host": SERVERS, "existingSecret": NAMES},
                optional={
                    "port": st.integers(1, 65535),
                    "direct": some(host=SERVERS, port=st.integers(1, 65535)),
                    "parameters": st.just("sslmode=verify-full&connect_timeout=5"),
                    "admin": st.fixed_dictionaries(
                        {"existingSecret": NAMES},
                        optional={"username": st.just("root")},
                    ),
                },
            ),
        }
    ),
)
BROKER = st.one_of(
    st.fixed_dictionaries({"rabbitmq": some(**SERVER)}),
    st.fixed_dictionaries(
        {
            "rabbitmq": st.just({"enabled": False}),
            "externalRabbitmq": st.fixed_dictionaries(
                {"host": SERVERS},
                optional={
                    "port": st.integers(1, 65535),
                    "tls": st.booleans(),
                    "vhost": PARTS,
                },
            ).flatmap(
                lambda given: st.sampled_from(
                    [
                        {"existingSecret": "theirs"},
                        {"existingSecret": "theirs", "restrictedUsers": False},
                        {"makeDefinitions": True},
                        {"makeDefinitions": True, "permitPrevious": True},
                    ]
                ).map(lambda passwords: given | passwords)
            ),
        }
    ),
)
FAMILIES = st.sampled_from(
    [
        {},
        {"ipFamilies": ["IPv6"]},
        {"ipFamilyPolicy": "PreferDualStack"},
        {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]},
        {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]},
    ]
)
OTHERS = some(
    **{
        "global": some(
            imageRegistry=REGISTRIES, imagePullSecrets=st.lists(NAMES, max_size=2)
        )
    },
    nameOverride=PARTS,
    fullnameOverride=PARTS,
    commonLabels=LABELS,
    imagePullSecrets=st.lists(NAMES.map(lambda name: {"name": name}), max_size=2),
    extraEnv=variables("FOR_ALL"),
    priorityClassName=PARTS,
    fixedUserIds=st.booleans(),
    currency=st.from_regex(r"[A-Z]{3}", fullmatch=True),
    logLevel=st.sampled_from(["DEBUG", "INFO", "WARNING", "ERROR"]),
    image=some(
        registry=REGISTRIES, namespace=st.sampled_from(["", "a", "a/b"]), tag=TAGS
    ),
    tokenSecret=some(existingSecret=NAMES),
    migrations=some(
        image=IMAGE,
        annotations=ANNOTATIONS,
        resources=RESOURCES,
        extraEnv=variables("OF_MIGRATIONS"),
        **PLACES,
    ),
    audit=some(
        schedule=st.sampled_from(["", "@daily", "*/5 0-6,22 * JAN,feb MON-FRI"])
    ),
    publicPaths=st.lists(
        st.sampled_from(["/", "/page", "/a.b/c-d_e"]), min_size=1, unique=True
    ),
    exactPublicPaths=st.lists(st.sampled_from(["/", "/a.b/c-d_e"]), unique=True),
    trustedProxies=st.sampled_from(["", 0, 2]),
    ingress=some(
        enabled=st.booleans(),
        className=PARTS,
        host=HOSTS,
        annotations=ANNOTATIONS,
        tls=st.lists(
            some(hosts=st.lists(CERTIFIED, max_size=2), secretName=NAMES), max_size=2
        ),
    ),
    httpRoute=st.fixed_dictionaries(
        {
            "enabled": st.booleans(),
            "parentRefs": st.just([{"name": "public", "namespace": "gateways"}]),
        },
        optional={
            "hostnames": st.lists(HOSTS, min_size=1, max_size=2),
            "annotations": ANNOTATIONS,
            "timeouts": some(request=st.just("60s"), backendRequest=st.just("1m")),
        },
    ),
    serviceMonitor=some(enabled=st.booleans(), interval=st.just("15s"), labels=LABELS),
    test=some(image=IMAGE, resources=RESOURCES),
    **PLACES,
)
POLICY = st.fixed_dictionaries(
    # KEDA must reach the broker.
    {"rabbitmqFrom": st.just([{"namespaceSelector": {}}])},
    optional={
        "enabled": st.booleans(),
        "dnsPorts": st.just([53, 5353]),
        "gatewayFrom": PEERS,
        "metricsFrom": PEERS,
        "postgresqlFrom": PEERS,
        "externalRabbitmqTo": PEERS,
        "externalPostgresqlTo": PEERS,
    },
)


@st.composite
def values(draw: st.DrawFn) -> dict[str, Any]:
    """Draw valid values of the chart."""
    own = {name: draw(service(name)) for name in SERVICES}
    servers = draw(DATABASES) | draw(BROKER)
    tls_to_broker = servers.get("externalRabbitmq", {}).get("tls")
    tls_to_databases = "parameters" in servers.get("externalPostgresql", {})
    encrypted = tls_to_broker or tls_to_databases
    ca = draw(CA) if encrypted and draw(st.booleans()) else {}
    more = {"trustedCA": ca, "services": own, "networkPolicy": draw(POLICY)}
    return draw(OTHERS) | draw(FAMILIES) | servers | more
