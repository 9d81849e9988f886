"""A tiny text encoder in ONNX, prompts that only it understands, and a server that answers them: for scripts/e2e-encoder.

Usage: tiny_encoder.py make FOLDER | tiny_encoder.py serve PORT_FILE

Each of four topics has words of its own, and no word stands in two prompts, so that words learnt from some prompts tell nothing of
others. The encoder gives every word of a topic nearly the same vector. How long an answer is depends on the prompt's topic.
"""

import hashlib
import http.server
import json
import pathlib
import random
import sys

TOPICS = 4
WORDS_A_TOPIC = 440
PROMPTS = 160
WORDS_A_PROMPT = 8
WIDTH = 16
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
TOKENS = [6, 20, 55, 120]


def word(topic, number):
    """A word that does not show its topic."""
    return "w" + hashlib.sha256(f"{topic} {number}".encode()).hexdigest()[:10]


def topics():
    return {word(topic, number): topic for topic in range(TOPICS) for number in range(WORDS_A_TOPIC)}


def prompts():
    rng = random.Random(5)
    left = {topic: [word(topic, number) for number in range(WORDS_A_TOPIC)] for topic in range(TOPICS)}
    for words in left.values():
        rng.shuffle(words)
    for number in range(PROMPTS):
        # The first is longer than what the encoder reads.
        n_words = 40 if number == 0 else WORDS_A_PROMPT
        yield " ".join(left[number % TOPICS].pop() for _ in range(n_words))


def tokenizer(folder):
    vocabulary = {text: at for at, text in enumerate(SPECIAL + list(topics()))}
    special = {name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    token = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
    sequence = lambda name: {"Sequence": {"id": name, "type_id": 0}}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    whole = {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 32, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [{"id": at, "content": name} | added for at, name in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("[CLS]"), sequence("A"), token("[SEP]")],
            "pair": [token("[CLS]"), sequence("A"), token("[SEP]"), sequence("B"), token("[SEP]")],
            "special_tokens": special,
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(whole))


def table(seed):
    """A vector for each token: its topic's and a little of its own."""
    import numpy

    rng = numpy.random.default_rng(seed)
    centres = rng.normal(size=(TOPICS, WIDTH))
    own = rng.normal(size=(len(SPECIAL) + TOPICS * WORDS_A_TOPIC, WIDTH)) * 0.3
    for at, topic in enumerate(topics().values()):
        own[len(SPECIAL) + at] += centres[topic]
    return own.astype("float32")


def graph(path, seed, pooled=False, axes=("batch", "tokens"), **save):
    """Gathers a vector for each token, hidden by the mask; where `pooled`, their mean."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    import numpy

    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, list(axes))
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    out = "sentence_embedding" if pooled else "last_hidden_state"
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Gather", ["types", "token_type_ids"], ["segments"]),
        helper.make_node("Add", ["words", "segments"], ["sums"]),
        helper.make_node("Cast", ["attention_mask"], ["flat"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["flat", "last"], ["mask"]),
        helper.make_node("Mul", ["sums", "mask"], ["hidden" if pooled else out]),
    ]
    if pooled:
        nodes.append(helper.make_node("ReduceMean", ["hidden"], [out], axes=[1], keepdims=0))
    shape = [axes[0], WIDTH] if pooled else [*axes, WIDTH]
    weights = {"table": table(seed), "types": numpy.zeros((2, WIDTH), "float32"), "last": numpy.array([2], "int64")}
    made = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    # Old enough for every ONNX Runtime that kvbench opens.
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, **save)


def make(folder):
    for name in ("hidden", "pooled", "other", "outside", "fixed", "broken"):
        (folder / name).mkdir(parents=True)
        tokenizer(folder / name)
    graph(folder / "hidden/model.onnx", 1)
    graph(folder / "pooled/onnx/model.onnx", 1, pooled=True)
    graph(folder / "other/model.onnx", 2)
    outside = {"save_as_external_data": True, "location": "model.onnx_data", "size_threshold": 1024}
    graph(folder / "outside/model.onnx", 1, **outside)
    graph(folder / "fixed/model.onnx", 1, axes=(1, 32))
    (folder / "broken/model.onnx").write_bytes(b"not a graph")
    rows = [
        {
            "id": f"p{at}",
            "conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": "well"}],
        }
        for at, prompt in enumerate(prompts())
    ]
    (folder / "prompts.json").write_text(json.dumps(rows))


class Answers(http.server.BaseHTTPRequestHandler):
    """Completions whose length is the topic's, with an error that the seed draws."""

    protocol_version = "HTTP/1.1"
    topics = topics()

    def log_message(self, *_):
        pass

    def send(self, body, kind="application/json"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.send(json.dumps({"version": "1", "data": [{"id": "known"}]}).encode())

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt, most = asked["prompt"], asked["max_tokens"]
        topic = next((self.topics[word] for word in prompt.split() if word in self.topics), 0)
        error = random.Random(f"{asked.get('seed')} {prompt}").gauss(0, 0.2)
        n = max(1, round(TOKENS[topic] * 2.718281828**error))
        reason = "length" if n > most else "stop"
        n = min(n, most)
        choice = lambda text, reason: {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}
        events = [choice(" x", reason if at + 1 == n else None) for at in range(n)]
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": n, "total_tokens": n}
        events.append({"choices": [], "usage": usage})
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        self.send(("".join(lines) + "data: [DONE]\n\n").encode(), "text/event-stream")


def serve(port_file):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    port_file.write_text(str(server.server_port))
    server.serve_forever()


if __name__ == "__main__":
    {"make": make, "serve": serve}[sys.argv[1]](pathlib.Path(sys.argv[2]))
