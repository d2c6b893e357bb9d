"""Outputs of other tools: raw times become samples, statistics become aggregates, the rest is refused."""

from __future__ import annotations

import json

import pytest

from effbench.errors import DataError, UsageError
from effbench.profiles import vendors

# As `exportJSONTrace` of TensorRT's samples/common/sampleReporting.cpp prints them; the first began during warm-up.
TRTEXEC = """[
  { "startEnqMs" : 12.1, "endEnqMs" : 12.2, "startH2dMs" : 12.1, "endH2dMs" : 12.3, "startComputeMs" : 12.3,
 "endComputeMs" : 13.1, "startD2hMs" : 13.1, "endD2hMs" : 13.2, "h2dMs" : 0.2, "computeMs" : 0.8, "d2hMs" : 0.1,
 "latencyMs" : 9.9, "endToEndMs" : 1.1 }
, { "startEnqMs" : 250.0, "endEnqMs" : 250.1, "startComputeMs" : 250.3, "endComputeMs" : 251.0, "h2dMs" : 0.2,
 "computeMs" : 0.7, "d2hMs" : 0.1, "latencyMs" : 1.0, "endToEndMs" : 1.0 }
, { "startEnqMs" : 252.0, "endEnqMs" : 252.1, "startComputeMs" : 252.3, "endComputeMs" : 253.3, "h2dMs" : 0.2,
 "computeMs" : 0.9, "d2hMs" : 0.1, "latencyMs" : 1.25, "endToEndMs" : 1.3 }
]
"""

LITERT = """07-14 13:14:52.114 I tflite  : Num threads: [4]
07-14 13:14:52.115 I tflite  : Replacing 539 out of 548 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 19
 partitions for subgraph 0.
07-14 13:14:52.859 I tflite  : count=3 first=235158 curr=200386 min=199462 max=235158 avg=211669 std=16613
07-14 13:14:56.520 I tflite  : count=25 first=187533 curr=140990 min=140071 max=195121 avg=145528 std=13583 p5=140545 \
median=141253 p95=187533
07-14 13:14:56.521 I tflite  : Inference timings in us: Init: 92318, First inference: 235158, Warmup (avg): 211669, \
Inference (avg): 145528
""".replace("yielding 19\n partitions", "yielding 19 partitions")

QNN_TEXT = """Execute Stats (Average):
------------------------
Total Inference Time:
---------------------
Graph 0 (model):
    NetRun:  2952 us
    Backend (Number of HVX threads used): 4 count
    Backend (RPC (execute) time): 2920 us
    Backend (Accelerator (execute) time): 2492 us
    Backend (QNN (execute) time): 2949 us

Execute Stats (Min):
--------------------
Graph 0 (model):
    NetRun:  2800 us

Execute Stats (Overall):
------------------------
    NetRun IPS:  214.8888 inf/sec
"""

QNN_CSV = """Msg Timestamp,Message,Time,Unit of Measurement,Timing Source,Event Level,Event Identifier
UNKNOWN,EXECUTE,3100,US,BACKEND,ROOT,NULL
UNKNOWN,BACKEND,2800,US,BACKEND,SUB-EVENT,Accelerator (execute) time
UNKNOWN,EXECUTE,3200,US,BACKEND,ROOT,NULL
UNKNOWN,BACKEND,2900,US,BACKEND,SUB-EVENT,Accelerator (execute) time
"""

ORT_FILE = "model,0.0587108,1048576,97,0\nmodel,0.0597,1048576,97,1\n\nMin Latency is 0.0587108sec\n"
ORT_CONSOLE = """Session creation time cost: 0.21 s
Total inference requests: 1000
Average inference time cost: 58.8053 ms
P50 Latency: 0.0587108 s
"""

APP_ASYNC = {
    "execution_results": {"latency (ms)": "3.20", "total number of iterations": "100"},
    "configuration_setup": {"API": "async", "number of parallel infer requests": "4"},
}


def samples(text: str, name: str | None = None) -> tuple[int, ...]:
    return vendors.read(text, "file", name)[1].samples_ns


def test_trtexec_without_its_warm_up():
    reader, reading = vendors.read(TRTEXEC, "times.json")
    assert ("trtexec", (1_000_000, 1_250_000), 1, "device-only") == (
        reader.name,
        reading.samples_ns,
        reading.warmup,
        reading.scope,
    )


def test_the_figure_and_the_delegates_of_litert_are_read():
    reader, reading = vendors.read(LITERT, "logcat.txt")
    assert ("litert", (141_253_000,), "median of 25 runs") == (reader.name, reading.samples_ns, reading.aggregate)
    assert (92.318, 235.158, "4", 3) == (reading.load_ms, reading.first_ms, reading.settings["threads"], reading.warmup)
    expected = {"delegate": "TfLiteXNNPackDelegate", "operators": 539, "of": 548, "partitions": 19}
    assert [expected] == reading.placement["delegates"]


def test_litert_of_older_versions_gives_the_mean():
    text = "... tflite  : Inference timings in us: Init: 5685, First inference: 18535, Warmup (avg): 14462.3, "
    reading = vendors.read(text + "Inference (avg): 14575.2", "logcat.txt")[1]
    assert ((14_575_200,), "mean of ? runs") == (reading.samples_ns, reading.aggregate)


def test_the_text_of_the_qnn_viewer_is_an_average():
    reader, reading = vendors.read(QNN_TEXT, "profile.txt")
    assert ("qnn", (2_952_000,), 2.492) == (reader.name, reading.samples_ns, reading.observed["accelerator_ms"])
    assert reading.aggregate


def test_the_csv_of_qnn_has_a_time_per_run():
    reading = vendors.read(QNN_CSV, "profile.csv")[1]
    assert ((3_100_000, 3_200_000), "") == (reading.samples_ns, reading.aggregate)


def test_the_result_file_of_onnxruntime_is_in_seconds():
    assert (58_710_800, 59_700_000) == samples(ORT_FILE)
    reading = vendors.read(ORT_CONSOLE, "console.txt")[1]
    assert ((58_710_800,), "median of 1000 runs", 210.0) == (reading.samples_ns, reading.aggregate, reading.load_ms)


def test_typed_figures_are_milliseconds():
    assert (1_500_000, 1_250_000) == samples("1.5  # first\n\n1.25\n") == samples("[1.5, 1.25]")
    assert vendors.read("2.5", "x")[1].aggregate


def test_throughput_is_refused():
    with pytest.raises(DataError, match=r"(?s)4 requests ran at a time.*-api sync"):
        vendors.read(json.dumps(APP_ASYNC), "benchmark_report.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        "[0.0]",
        "-1",
        '[{"computeMs": 1}]',
        '{"execution_results": {}}',
        QNN_TEXT.replace("2952", "x"),
    ],
)
def test_a_text_without_a_measurement_is_refused(text: str):
    with pytest.raises(DataError):
        vendors.read(text, "file")


def test_an_unknown_format_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="trtexec"):
        vendors.read(TRTEXEC, "file", "trtexe")


def test_each_format_is_recognized_by_one_reader():
    texts = {"trtexec": TRTEXEC, "litert": LITERT, "qnn": QNN_TEXT, "onnxruntime": ORT_FILE, "samples": "1.0"}
    for name, text in texts.items():
        assert [name] == [reader.name for reader in vendors.readers().values() if reader.matches(text)]
