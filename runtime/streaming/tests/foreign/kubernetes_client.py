"""Python's `kubernetes` package (its WebSocket client, over websocket-client) against a streaming URL.

    kubernetes_client.py exec URL       sends lines to `cat`, reads them back, prints what came
    kubernetes_client.py exit URL       prints the exit code
    kubernetes_client.py forward URL PORT
"""

import json
import sys
import urllib.parse

from kubernetes.client import Configuration
from kubernetes.stream import ws_client


def client(url, binary=False):
    return ws_client.WSClient(Configuration(), url, None, capture_all=True, binary=binary)


what, url = sys.argv[1], sys.argv[2].replace("http://", "ws://")
if what == "exec":
    stream = client(url)
    for number in range(3):
        stream.write_stdin(f"line {number}\n")
        line = stream.readline_stdout(timeout=30)
        assert line == f"line {number}", line
    stream.write_stdin("x" * 3_000_000 + "\n")
    assert len(stream.readline_stdout(timeout=60)) == 3_000_000
    stream.close()
    print(json.dumps("done"))
elif what == "exit":
    stream = client(url)
    stream.run_forever(timeout=60)
    print(json.dumps([stream.read_stdout(), stream.read_stderr(), stream.returncode]))
else:
    port = int(sys.argv[3])
    parts = urllib.parse.urlsplit(url)
    configuration = Configuration()
    websocket = ws_client.create_websocket(configuration, url + f"?ports={port}", None)
    forward = ws_client.PortForward(websocket, [port])
    socket = forward.socket(port)
    socket.setblocking(True)
    socket.sendall(b"hello, pod")
    got = b""
    while len(got) < 10:
        got += socket.recv(1024)
    print(json.dumps([got.decode(), forward.error(port)]))
    socket.close()
