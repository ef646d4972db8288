"""A gRPC client without a proxy, and the two replicas of the service that it calls.

Prints the replicas' ports; then, for every line "PORT COUNT" on its input, calls the service COUNT
times by the name that the control plane at PORT knows, and prints how often each replica answered,
and how many calls failed.
"""

import json
import os
import sys
from concurrent import futures

import grpc

METHOD = "/test.Replica/Name"


def replica(name: bytes):
    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: name)
    service = grpc.method_handlers_generic_handler("test.Replica", {"Name": handler})
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def bootstrap(port: str) -> str:
    server = {
        "server_uri": f"127.0.0.1:{port}",
        "channel_creds": [{"type": "insecure"}],
        "server_features": ["xds_v3"],
    }
    return json.dumps({"xds_servers": [server], "node": {"id": "grpc-python"}})


def main():
    replicas = [replica(b"original"), replica(b"shadow")]
    print(*(port for _server, port in replicas), flush=True)
    channel = None
    for line in sys.stdin:
        port, count = line.split()
        if channel is None:
            os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = bootstrap(port)
            channel = grpc.insecure_channel("xds:///shop")
        call = channel.unary_unary(METHOD)
        seen = {b"original": 0, b"shadow": 0}
        failed = 0
        for _ in range(int(count)):
            try:
                seen[call(b"", timeout=20, wait_for_ready=True)] += 1
            except grpc.RpcError as error:
                print(error, file=sys.stderr)
                failed += 1
        print(seen[b"original"], seen[b"shadow"], failed, flush=True)


main()
