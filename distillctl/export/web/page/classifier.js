// The model: load it once, then ask it for the probabilities of an image.

import * as ort from "./ort.wasm.min.mjs";
import { pixelsOf } from "./pixels.js";

const here = (name) => new URL(name, import.meta.url).href;

export class Classifier {
  constructor(session, classes, seen) {
    Object.assign(this, { session, classes, seen });
  }

  // progress(loaded bytes, all bytes or 0) is called while the model arrives.
  static async load(progress = () => {}) {
    ort.env.wasm.wasmPaths = { mjs: here("ort-wasm-simd-threaded.mjs"), wasm: here("ort-wasm-simd-threaded.wasm") };
    ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
    ort.env.logLevel = "error";
    const labels = await (await fetched(here("labels.json"))).json();
    const model = await bytes(await fetched(here("model.onnx")), progress);
    const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
    const classifier = new Classifier(session, labels.classes, labels.preprocessing);
    classifier.bytes = model.byteLength;
    await classifier.run(new Uint8Array(3 * 64), 8, 8); // the first time takes longer
    return classifier;
  }

  // source: ImageBitmap, video or canvas. Resolves to { probabilities: Float32Array of [classes], reading_ms, running_ms, factor }.
  async classify(source, width, height) {
    const start = performance.now();
    const seen = pixelsOf(source, width, height, this.seen);
    const read = performance.now();
    const probabilities = await this.run(seen.data, seen.width, seen.height);
    return { probabilities, reading_ms: read - start, running_ms: performance.now() - read, factor: seen.factor };
  }

  // data: bytes of [height, width, 3].
  async run(data, width, height) {
    const image = new ort.Tensor("uint8", data, [1, height, width, 3]);
    const { probabilities } = await this.session.run({ image }, ["probabilities"]);
    return probabilities.data;
  }

  // The likeliest classes, the likeliest first: [{ name, p }].
  best(probabilities, count = 5) {
    const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a] || a - b);
    return order.slice(0, count).map((position) => ({ name: this.classes[position], p: probabilities[position] }));
  }
}

async function fetched(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url} is missing (${answer.status})`);
  return answer;
}

async function bytes(answer, progress) {
  const all = Number(answer.headers.get("Content-Length")) || 0;
  const pieces = [];
  let loaded = 0;
  const reader = answer.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    progress((loaded += value.length), all);
  }
  const whole = new Uint8Array(loaded);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
