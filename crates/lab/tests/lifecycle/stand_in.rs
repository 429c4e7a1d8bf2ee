//! Machines whose server is a light stand-in, for tests that are about the engine's own steps.

use instances_lab::{Machine, fleet};

/// Makes every instance take the stand-in.
pub(crate) const DEFAULTS: &str = "[defaults]\npackage = \"/usr/local/bin/stand-in\"\n";

const SERVER: &str = "/usr/local/bin/stand-in";

const STAND_IN: &str = r#"#!/usr/bin/python3 -SE
import socket, sys
port = int(sys.argv[sys.argv.index('--port') + 1])
listener = socket.create_server(('127.0.0.1', port))
print('opencode-instances: the guard is first', flush=True)
print('opencode-instances: the guard is active', flush=True)
print(f'opencode server listening on http://127.0.0.1:{port}', flush=True)
body = '{"healthy":true,"version":"0"}'
head = f'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n'
answer = f'{head}connection: close\r\n\r\n{body}'.encode()
while True:
    client, _ = listener.accept()
    try:
        client.recv(65536)
        client.sendall(answer)
    except OSError:
        pass
    client.close()
"#;

/// Boots a machine that has the engine, the stand-in, the specification and the projects.
pub(crate) fn boot(name: &str, spec: &str, projects: &[&str]) -> Machine {
    let machine = fleet::boot(name, spec, projects).unwrap();
    put(&machine);
    machine
}

/// Puts the stand-in where [`DEFAULTS`] names it.
pub(crate) fn put(machine: &Machine) {
    machine.put(SERVER, STAND_IN, 0o755).unwrap();
}
