// A gRPC client without a proxy, and the two replicas of the service that it calls: the same as
// grpc_client.py, on Node.
//
// Prints the replicas' ports; then, for every line "PORT COUNT" on its input, calls the service COUNT
// times by the name that the control plane at PORT knows, and prints how often each replica answered,
// and how many calls failed.
"use strict";

const readline = require("node:readline");
const grpc = require("@grpc/grpc-js");

const raw = (bytes) => bytes;
const SERVICE = {
    Name: {
        path: "/test.Replica/Name",
        requestStream: false,
        responseStream: false,
        requestSerialize: raw,
        requestDeserialize: raw,
        responseSerialize: raw,
        responseDeserialize: raw,
    },
};

function replica(name) {
    const server = new grpc.Server();
    server.addService(SERVICE, { Name: (_call, answer) => answer(null, Buffer.from(name)) });
    const credentials = grpc.ServerCredentials.createInsecure();
    return new Promise((resolve, reject) => {
        server.bindAsync("127.0.0.1:0", credentials, (error, port) =>
            error ? reject(error) : resolve(port));
    });
}

function bootstrap(port) {
    const server = {
        server_uri: `127.0.0.1:${port}`,
        channel_creds: [{ type: "insecure" }],
        server_features: ["xds_v3"],
    };
    // Without a locality this client takes the whole for malformed, and says something else.
    const node = { id: "grpc-node", locality: {} };
    return JSON.stringify({ xds_servers: [server], node });
}

function call(client) {
    return new Promise((resolve) => {
        const deadline = Date.now() + 20000;
        client.Name(Buffer.alloc(0), new grpc.Metadata({ waitForReady: true }), { deadline },
            (error, answer) => {
                if (error) {
                    console.error(error.message);
                }
                resolve(error ? "failed" : answer.toString());
            });
    });
}

async function main() {
    console.log(`${await replica("original")} ${await replica("shadow")}`);
    let client = null;
    for await (const line of readline.createInterface({ input: process.stdin })) {
        const [port, count] = line.split(" ");
        if (client === null) {
            process.env.GRPC_XDS_BOOTSTRAP_CONFIG = bootstrap(port);
            // It reads the bootstrap when it is loaded.
            require("@grpc/grpc-js-xds").register();
            const Client = grpc.makeGenericClientConstructor(SERVICE, "Replica");
            client = new Client("xds:///shop", grpc.credentials.createInsecure());
        }
        const seen = { original: 0, shadow: 0, failed: 0 };
        for (let made = 0; made < Number(count); made += 1) {
            seen[await call(client)] += 1;
        }
        console.log(`${seen.original} ${seen.shadow} ${seen.failed}`);
    }
    process.exit(0);
}

main();
