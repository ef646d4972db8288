"""Asks for the forecast of `vm` over gRPC; prints the status code, or OK."""

import argparse

import grpc


def options():
    """How to reach the control plane and to prove oneself."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    for name in ("--ca", "--certificate", "--key", "--token"):
        parser.add_argument(name)
    return parser.parse_args()


def read(path):
    """A file's bytes, if one is named."""
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


def channel(told):
    """A channel over TLS, or in plain text where no authority is given."""
    if told.ca is None:
        return grpc.insecure_channel(told.address)
    credentials = grpc.ssl_channel_credentials(
        read(told.ca), read(told.key), read(told.certificate)
    )
    return grpc.secure_channel(told.address, credentials)


def main():
    """One call. The request is `GetForecastRequest{instance: "vm"}` as bytes."""
    told = options()
    metadata = [("authorization", f"Bearer {told.token}")] if told.token else []
    with channel(told) as connected:
        call = connected.unary_unary("/foreshadow.v1.Forecasting/GetForecast")
        try:
            call(b"\x0a\x02vm", metadata=metadata, timeout=10)
            print("OK")
        except grpc.RpcError as error:
            print(error.code().name)


if __name__ == "__main__":
    main()
