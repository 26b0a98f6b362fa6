// The page: an image is dropped, pasted, chosen or seen by the camera; what the model answers is shown.

import { decode } from "./pixels.js";

const LARGEST_PREVIEW = 1280; // px of the longer edge
const element = (id) => document.getElementById(id);
const [stage, preview, results, message, spoken] = ["stage", "preview", "results", "message", "spoken"].map(element);
const [chooser, cameraButton, timing, about] = ["chooser", "camera", "timing", "about"].map(element);

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let asked = 0; // the newest question; answers to older ones are not shown
let seen = null;
let camera = null;

document.body.classList.add("started");
say("Loading the model …");

worker.addEventListener("error", (event) => fail(event.message || "The model's script cannot be loaded."));
worker.addEventListener("message", ({ data }) => {
  if (data.failed) fail(data.failed);
  else if (data.ready) ready(data);
  else if (data.loaded) say(`Loading the model … ${megabytes(data.loaded)}${data.all ? ` of ${megabytes(data.all)}` : ""}`);
  else {
    const { resolve, reject } = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.error) reject(new Error(data.error));
    else resolve(data);
  }
});

function ready(model) {
  seen = model.seen;
  document.body.classList.add("ready");
  const size = `${seen.image_size} × ${seen.image_size} px`;
  about.textContent = `${model.classes} classes · sees the bright part, at ${size} · ${megabytes(model.bytes)}`;
  say("");
}

function fail(reason) {
  document.body.classList.add("failed");
  say(`The model cannot be loaded: ${reason}`, true);
}

function say(text, isError = false) {
  message.textContent = text;
  message.classList.toggle("error", isError);
}

const megabytes = (count) => `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)} MB`;

function ask(bitmap) {
  const id = ++asked;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, bitmap }, [bitmap]);
  });
}

async function show(file) {
  stopCamera();
  const mine = ++asked;
  say("Reading the image …");
  let bitmap;
  try {
    bitmap = await decode(file);
  } catch {
    if (mine === asked) say(`${file.name || "This"} is not an image that this browser can read.`, true);
    return;
  }
  if (mine !== asked) return bitmap.close();
  draw(bitmap, bitmap.width, bitmap.height);
  preview.setAttribute("aria-label", file.name ? `The image ${file.name}` : "The image");
  say(seen ? "Thinking …" : "Loading the model …");
  await answer(bitmap);
}

// Shows what the model says of a bitmap, which is used up; false where something newer was asked meanwhile.
async function answer(bitmap) {
  document.body.classList.add("busy");
  const question = ask(bitmap);
  const mine = asked;
  try {
    const found = await question;
    if (mine !== asked) return false;
    list(found);
    say("");
    return true;
  } catch (error) {
    if (mine === asked) say(`The model gave no answer: ${error.message}`, true);
    return false;
  } finally {
    if (mine === asked) document.body.classList.remove("busy");
  }
}

function list({ best, reading_ms, running_ms, factor }) {
  while (results.children.length > best.length) results.lastElementChild.remove();
  while (results.children.length < best.length) results.append(row());
  best.forEach(({ name, p }, rank) => {
    const [label, share, bar] = results.children[rank].children;
    label.textContent = name;
    share.textContent = percent(p);
    bar.style.setProperty("--p", p.toFixed(4));
  });
  const smaller = factor > 1 ? ` · made ${factor} times smaller first` : "";
  timing.textContent = `${(reading_ms + running_ms).toFixed(1)} ms: pixels ${reading_ms.toFixed(1)}, model ${running_ms.toFixed(1)}${smaller}`;
  const words = `${best[0].name}, ${percent(best[0].p)}`;
  if (!camera || !spoken.textContent.startsWith(`${best[0].name}, `)) spoken.textContent = words; // of a camera, only what changes
  document.body.classList.add("answered");
}

function row() {
  const item = document.createElement("li");
  const parts = ["bdi", "span", "div"].map((tag) => document.createElement(tag));
  parts.forEach((part, place) => (part.className = ["name", "share", "bar"][place]));
  item.append(...parts);
  return item;
}

function percent(p) {
  if (p > 0.9995) return "> 99.9 %";
  return p < 0.0005 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`;
}

// The image, with what the model does not look at in the shade.
function draw(source, width, height) {
  const scale = Math.min(1, LARGEST_PREVIEW / Math.max(width, height));
  const [w, h] = [width, height].map((edge) => Math.max(1, Math.round(edge * scale)));
  if (preview.width !== w || preview.height !== h) [preview.width, preview.height] = [w, h];
  preview.style.setProperty("--ratio", String(w / h));
  preview.classList.toggle("tiny", Math.max(w, h) < 128);
  const context = preview.getContext("2d");
  context.clearRect(0, 0, w, h);
  context.drawImage(source, 0, 0, w, h);
  document.body.classList.add("filled");
  if (!seen) return;
  const short = Math.min(width, height);
  const side = (short > seen.image_size ? (short * seen.image_size) / seen.resize : short) * scale;
  if (side > Math.max(w, h) - 2) return;
  const [x, y] = [(w - side) / 2, (h - side) / 2];
  context.fillStyle = "rgb(0 0 0 / 0.45)";
  context.beginPath();
  context.rect(0, 0, w, h);
  context.rect(x, y, side, side);
  context.fill("evenodd");
}

async function startCamera() {
  if (!navigator.mediaDevices?.getUserMedia) return say("The camera needs a page from localhost or by https.", true);
  const mine = ++asked;
  say("Waiting for the camera …");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
  } catch (error) {
    const reasons = { NotAllowedError: "The camera was not allowed.", NotFoundError: "There is no camera." };
    if (mine === asked) say(reasons[error.name] ?? `The camera cannot be used: ${error.message}`, true);
    return;
  }
  if (mine !== asked) return stream.getTracks().forEach((track) => track.stop());
  const video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
  camera = { stream, video };
  stream.getVideoTracks()[0].addEventListener("ended", stopCamera);
  cameraButton.textContent = "Stop camera";
  preview.setAttribute("aria-label", "What the camera sees");
  say(seen ? "" : "Loading the model …");
  await video.play();
  watch(camera);
}

// A frame after the other, as fast as the model answers.
async function watch(mine) {
  while (camera === mine) {
    if (document.hidden) {
      stopCamera();
      return;
    }
    const { video } = mine;
    if (video.videoWidth) {
      draw(video, video.videoWidth, video.videoHeight);
      await answer(await createImageBitmap(video));
    }
    await new Promise(requestAnimationFrame);
  }
}

function stopCamera() {
  if (!camera) return;
  camera.stream.getTracks().forEach((track) => track.stop());
  camera = null;
  cameraButton.textContent = "Use camera";
}

chooser.addEventListener("change", () => {
  if (chooser.files[0]) show(chooser.files[0]);
  chooser.value = ""; // so that the same file can be chosen again
});
cameraButton.addEventListener("click", () => (camera ? stopCamera() : startCamera()));
addEventListener("visibilitychange", () => document.hidden && stopCamera());
addEventListener("paste", (event) => {
  const file = Array.from(event.clipboardData.files)[0];
  if (file) show(file);
});

let inside = 0; // dragenter and dragleave come for every element on the way
addEventListener("dragenter", (event) => {
  event.preventDefault();
  inside++;
  stage.classList.add("over");
});
addEventListener("dragleave", () => {
  if (--inside <= 0) stage.classList.remove("over");
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  stage.classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) show(file);
  else say("That is not a file. Save the image first, then drop the file.", true);
});
