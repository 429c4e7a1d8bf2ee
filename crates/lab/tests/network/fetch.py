# What an agent might do: fetch a package, and look at a machine of the local network.
import socket

for place in ("registry.npmjs.org", 443), ("192.168.7.7", 8080):
    try:
        with socket.create_connection(place, 5) as one:
            print(f"{place[0]}: {one.recv(64).decode()}")
    except OSError as error:
        print(f"{place[0]}: {error}")
