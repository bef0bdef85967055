"""A SPDY/3.1 client of the Python standard library, with the habits of the Go library that kubectl uses: it sends no
WINDOW_UPDATE, heeds none, and writes as fast as the socket takes it.

    spdy_client.py exec URL BYTES       sends BYTES bytes to stdin, ends it, reads all
    spdy_client.py forward URL PORT BYTES COUNT     COUNT connections at once, each with BYTES bytes

Prints one line of JSON: what came on each stream, as length and SHA-256, or as text if it is short.
"""

import hashlib
import json
import socket
import struct
import sys
import threading
import urllib.parse
import zlib

WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status"
).split() + ["200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"]
TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = b"".join(struct.pack(">I", len(word)) + word.encode() for word in WORDS) + TAIL.encode()


class Stream:
    def __init__(self):
        self.replied = threading.Event()
        self.ended = threading.Event()
        self.length = 0
        self.digest = hashlib.sha256()
        self.head = b""

    def take(self, data):
        self.length += len(data)
        self.digest.update(data)
        self.head = (self.head + data)[:1000]

    def told(self):
        if self.length < 1000:
            return self.head.decode()
        return {"length": self.length, "sha256": self.digest.hexdigest()}


class Connection:
    def __init__(self, url, protocol):
        parts = urllib.parse.urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port))
        request = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 0\r\nConnection: Upgrade\r\n"
            f"Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n\r\n"
        )
        self.socket.sendall(request.encode())
        self.file = self.socket.makefile("rb")
        status = self.file.readline().decode()
        headers = {}
        while (line := self.file.readline().decode().strip()):
            name, value = line.split(":", 1)
            headers[name.lower()] = value.strip()
        assert " 101 " in status, status
        assert headers["x-stream-protocol-version"] == protocol, headers
        self.packer = zlib.compressobj(zlib.Z_BEST_COMPRESSION, zdict=DICTIONARY)
        self.unpacker = zlib.decompressobj(zdict=DICTIONARY)
        self.streams = {}
        self.next = 1
        self.sending = threading.Lock()
        threading.Thread(target=self.read, daemon=True).start()

    def control(self, kind, flags, body):
        with self.sending:
            self.socket.sendall(struct.pack(">HHI", 0x8003, kind, flags << 24 | len(body)) + body)

    def open(self, **headers):
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        plain = struct.pack(">I", len(pairs))
        for pair in pairs:
            for text in pair:
                plain += struct.pack(">I", len(text)) + text
        number, stream = self.next, Stream()
        self.next += 2
        self.streams[number] = stream
        block = self.packer.compress(plain) + self.packer.flush(zlib.Z_SYNC_FLUSH)
        self.control(1, 0, struct.pack(">IIBB", number, 0, 0, 0) + block)
        assert stream.replied.wait(30), f"no SYN_REPLY for {headers}"
        return number, stream

    def send(self, number, data, fin=False):
        with self.sending:
            self.socket.sendall(struct.pack(">II", number, (1 if fin else 0) << 24 | len(data)) + data)

    def read(self):
        while (head := self.file.read(8)):
            first, second = struct.unpack(">II", head)
            body = self.file.read(second & 0xFFFFFF)
            flags = second >> 24
            if not first & 0x80000000:
                stream = self.streams[first]
                assert stream.replied.is_set(), "data before SYN_REPLY"
                stream.take(body)
                if flags & 1:
                    stream.ended.set()
                continue
            kind = first & 0xFFFF
            if kind == 2:
                number = struct.unpack(">I", body[:4])[0]
                assert self.unpacker.decompress(body[4:]) == b"\0\0\0\0", "headers in SYN_REPLY"
                self.streams[number].replied.set()
            elif kind == 3:
                self.streams[struct.unpack(">I", body[:4])[0]].ended.set()
            elif kind == 6:
                self.control(6, 0, body)
        for stream in self.streams.values():
            stream.ended.set()


def block(number):
    return bytes((index * 7 + number) % 251 for index in range(32 * 1024))


def send_all(connection, stream, count, number):
    piece = block(number)
    while count > 0:
        here = min(count, len(piece))
        connection.send(stream, piece[:here])
        count -= here
    connection.send(stream, b"", fin=True)


def run(url, count):
    connection = Connection(url, "v4.channel.k8s.io")
    _, error = connection.open(streamType="error")
    stdin, _ = connection.open(streamType="stdin")
    _, stdout = connection.open(streamType="stdout")
    _, stderr = connection.open(streamType="stderr")
    threading.Thread(target=send_all, args=(connection, stdin, count, 0), daemon=True).start()
    for stream in (stdout, stderr, error):
        stream.ended.wait()
    return {"stdout": stdout.told(), "stderr": stderr.told(), "error": error.told()}


def forward(url, port, count, connections):
    connection = Connection(url, "portforward.k8s.io")
    pairs = []
    for number in range(connections):
        about = {"port": str(port), "requestID": str(number)}
        error_number, error = connection.open(streamType="error", **about)
        connection.send(error_number, b"", fin=True)
        data_number, data = connection.open(streamType="data", **about)
        arguments = (connection, data_number, count, number)
        threading.Thread(target=send_all, args=arguments, daemon=True).start()
        pairs.append((data, error))
    told = []
    for data, error in pairs:
        data.ended.wait()
        error.ended.wait()
        told.append({"data": data.told(), "error": error.told()})
    return told


if sys.argv[1] == "exec":
    print(json.dumps(run(sys.argv[2], int(sys.argv[3]))))
else:
    print(json.dumps(forward(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))))
