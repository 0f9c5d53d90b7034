#!/usr/bin/python3
"""KEDA's side of an external scaler, and an exporter's side of the scaler's streams, for tests.

Independent of the project's own stubs: the messages are described here by their numbers, and spoken by grpcio.

  client.py [--ca FILE] [--cert FILE] [--key FILE] ADDRESS COMMAND...

  call METHOD REFERENCE             one question; prints the answer, or the error's code and message
  poll REFERENCE METRIC SECONDS     GetMetrics every 20 ms; prints each value with the time and how long it took
  watch REFERENCE                   StreamIsActive until it ends; prints each answer with the time
  watch-many REFERENCE COUNT        so many of them over one connection at once, then one question beside them
  serve STATE                       an exporter at ADDRESS that says STATE, and goes on saying that nothing has changed

A REFERENCE is a ScaledObjectRef as JSON. All output is JSON, a line each.
"""

import argparse
import json
import sys
import time
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

FIELD = descriptor_pb2.FieldDescriptorProto
MAP = "map<string,string>"

# For each package, its messages, and their fields: name, number, type, and * for a repeated one.
PACKAGES = {
    "externalscaler": {
        "ScaledObjectRef": [("name", 1, "string"), ("namespace", 2, "string"), ("scalerMetadata", 3, MAP)],
        "IsActiveResponse": [("result", 1, "bool")],
        "MetricSpec": [("metricName", 1, "string"), ("targetSize", 2, "int64"), ("targetSizeFloat", 3, "double")],
        "GetMetricSpecResponse": [("metricSpecs", 1, "MetricSpec*")],
        "GetMetricsRequest": [("scaledObjectRef", 1, "ScaledObjectRef"), ("metricName", 2, "string")],
        "MetricValue": [("metricName", 1, "string"), ("metricValue", 2, "int64"), ("metricValueFloat", 3, "double")],
        "GetMetricsResponse": [("metricValues", 1, "MetricValue*")],
    },
    "podwasm.counts.v1": {
        "WatchRequest": [],
        "Reading": [("id", 1, "uint32"), ("requests", 2, "uint64"), ("tls_connections", 3, "uint64"), ("state", 4, "int32")],
        "Pod": [
            ("id", 1, "uint32"), ("uid", 2, "string"), ("namespace", 3, "string"), ("name", 4, "string"),
            ("labels", 5, MAP), ("workload_kind", 6, "string"), ("workload", 7, "string"), ("since_ms", 8, "uint64"),
            ("reading", 9, "Reading"), ("past", 10, "uint64*"),
        ],
        "Update": [
            ("node", 1, "string"), ("run", 2, "uint64"), ("read_ms", 3, "uint64"), ("more", 4, "bool"),
            ("unknown", 5, "string"), ("started", 6, "Pod*"), ("readings", 7, "Reading*"),
        ],
    },
}

METHODS = {
    "IsActive": ("ScaledObjectRef", "IsActiveResponse"),
    "StreamIsActive": ("ScaledObjectRef", "IsActiveResponse"),
    "GetMetricSpec": ("ScaledObjectRef", "GetMetricSpecResponse"),
    "GetMetrics": ("GetMetricsRequest", "GetMetricsResponse"),
}


def message_classes(package, messages):
    """Makes classes of a package's messages."""
    file = descriptor_pb2.FileDescriptorProto(name=package + ".test", package=package, syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            add_field(message, package, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"{package}.{name}") for name in messages}
    return {name: message_class(descriptor) for name, descriptor in found.items()}


def message_class(descriptor):
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory().GetPrototype(descriptor)  # protobuf before 4.22


def add_field(message, package, name, number, kind):
    label = FIELD.LABEL_REPEATED if kind.endswith("*") or kind == MAP else FIELD.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label, json_name=name)
    kind = kind.rstrip("*")
    if kind == MAP:
        entry = message.nested_type.add(name=name[0].upper() + name[1:] + "Entry")
        entry.options.map_entry = True
        add_field(entry, package, "key", 1, "string")
        add_field(entry, package, "value", 2, "string")
        kind = f"{message.name}.{entry.name}"
    scalar = getattr(FIELD, "TYPE_" + kind.upper(), None)
    field.type = scalar or FIELD.TYPE_MESSAGE
    if scalar is None:
        field.type_name = f".{package}.{kind}"


KEDA = message_classes("externalscaler", PACKAGES["externalscaler"])
COUNTS = message_classes("podwasm.counts.v1", PACKAGES["podwasm.counts.v1"])


def say(**what):
    print(json.dumps(what), flush=True)


def method(channel, name):
    request, answer = METHODS[name]
    make = channel.unary_stream if name.startswith("Stream") else channel.unary_unary
    return make(
        "/externalscaler.ExternalScaler/" + name,
        request_serializer=KEDA[request].SerializeToString,
        response_deserializer=KEDA[answer].FromString,
    )


def as_json(message):
    """Fields that are zero are shown as well."""
    every = "always_print_fields_with_no_presence"
    if every not in json_format.MessageToDict.__code__.co_varnames:
        every = "including_default_value_fields"  # protobuf before 26
    return json_format.MessageToDict(message, **{every: True})


def call(channel, name, reference):
    request = json_format.Parse(reference, KEDA[METHODS[name][0]]())
    try:
        say(answer=as_json(method(channel, name)(request, timeout=10, wait_for_ready=True)))
    except grpc.RpcError as error:
        say(code=error.code().name, message=error.details())


def poll(channel, reference, metric, seconds):
    request = KEDA["GetMetricsRequest"](metricName=metric)
    json_format.Parse(reference, request.scaledObjectRef)
    ask = method(channel, "GetMetrics")
    end = time.time() + float(seconds)
    while time.time() < end:
        asked = time.time()
        try:
            value = ask(request, timeout=10).metricValues[0].metricValueFloat
            say(time=asked, value=value, took=time.time() - asked)
        except grpc.RpcError as error:
            say(time=asked, code=error.code().name, message=error.details())
        time.sleep(0.02)


def watch(channel, reference):
    request = json_format.Parse(reference, KEDA["ScaledObjectRef"]())
    try:
        for answer in method(channel, "StreamIsActive")(request, wait_for_ready=True):
            say(time=time.time(), active=answer.result)
        say(time=time.time(), ended="OK")
    except grpc.RpcError as error:
        say(time=time.time(), ended=error.code().name, message=error.details())


def watch_many(channel, reference, count):
    request = json_format.Parse(reference, KEDA["ScaledObjectRef"]())
    stream = method(channel, "StreamIsActive")
    streams = [stream(request, timeout=60, wait_for_ready=True) for _ in range(int(count))]
    answers = [next(stream).result for stream in streams]
    say(answered=len(answers))
    call(channel, "IsActive", reference)


def serve(address, state):
    update = json_format.Parse(state, COUNTS["Update"]())

    def updates(_request, context):
        yield update
        while context.is_active():
            time.sleep(0.25)
            yield COUNTS["Update"](node=update.node, run=update.run, read_ms=update.read_ms)

    handler = grpc.unary_stream_rpc_method_handler(
        updates,
        request_deserializer=COUNTS["WatchRequest"].FromString,
        response_serializer=COUNTS["Update"].SerializeToString,
    )
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    service = grpc.method_handlers_generic_handler("podwasm.counts.v1.Counts", {"Watch": handler})
    server.add_generic_rpc_handlers((service,))
    if server.add_insecure_port(address) == 0:
        sys.exit(f"cannot listen on {address}")
    server.start()
    say(serving=address)
    server.wait_for_termination()


def open_channel(flags):
    # As KEDA does it: all addresses of one name in turn. Of a list of addresses grpcio would make a name that is none.
    options = [("grpc.lb_policy_name", "round_robin"), ("grpc.default_authority", "localhost"), ("grpc.enable_http_proxy", 0)]
    if not flags.ca:
        return grpc.insecure_channel(flags.address, options)
    files = [flags.ca, flags.key, flags.cert]
    contents = [open(path, "rb").read() if path else None for path in files]
    return grpc.secure_channel(flags.address, grpc.ssl_channel_credentials(*contents), options)


def main():
    parser = argparse.ArgumentParser()
    for name in ("--ca", "--cert", "--key"):
        parser.add_argument(name)
    parser.add_argument("address")
    parser.add_argument("command")
    parser.add_argument("rest", nargs="*")
    flags = parser.parse_args()
    if flags.command == "serve":
        serve(flags.address, *flags.rest)
        return
    commands = {"call": call, "poll": poll, "watch": watch, "watch-many": watch_many}
    with open_channel(flags) as channel:
        commands[flags.command](channel, *flags.rest)


main()
