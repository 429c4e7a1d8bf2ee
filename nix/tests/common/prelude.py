import datetime
import json
import shlex

# The driver of NixOS 26.11 takes durations as `timedelta`, and warns of bare numbers.
SOON = datetime.timedelta(minutes=2)


def show(unit, what):
    """One property of a unit."""
    return machine.succeed(f"systemctl show --value --property={what} {shlex.quote(unit)}").strip()


def pid(name):
    """The server's supervisor: another number means that the instance was restarted."""
    return show(f"opencode-{name}.service", "MainPID")


def status(name):
    """What `status` knows; its exit status 4 says that something is wrong, which is no failure here."""
    _, output = machine.execute(f"opencode-instances status --json {name}")
    return json.loads(output)["instances"][0]


def wait_healthy(*names):
    for name in names:
        machine.wait_until_succeeds(
            f"opencode-instances status --json {name} | grep -q '\"healthy\": *true'", timeout=SOON
        )


def url(name):
    return machine.succeed(f"opencode-instances url {name}").strip()


def post(address, document):
    body = shlex.quote(json.dumps(document))
    return json.loads(
        machine.succeed(
            "curl --silent --show-error --fail-with-body --max-time 60"
            f" --header 'content-type: application/json' --data-binary {body} {shlex.quote(address)}"
        )
    )


def agent(name, command):
    """Runs a command where the agent's tools run: by the server itself, inside the sandbox.

    `su` or `sudo` would test the modes of files, and never enter the sandbox.
    """
    base = url(name)
    session = post(f"{base}session", {"title": "probe"})["id"]
    answer = post(f"{base}session/{session}/shell", {"agent": "build", "command": command})
    return answer["parts"][0]["state"]["output"].strip()


def says(name, command, expected):
    found = agent(name, command)
    assert expected in found, f"{name} says {found!r} to {command!r}, and not {expected!r}"


def http(address):
    """The status of a request without a password; 000 where nobody answers."""
    _, code = machine.execute(
        f"curl --silent --output /dev/null --max-time 20 --write-out '%{{http_code}}' {address}"
    )
    return code.strip()


