# Tries to have a port of the host's: by name, and by listening without one.
import errno, socket

for name, step in ("bind", lambda one: one.bind(("127.0.0.1", 7777))), ("listen", lambda one: one.listen()):
    with socket.socket() as one:
        try:
            step(one)
            print(name, "done")
        except OSError as error:
            print(name, errno.errorcode[error.errno])
