// The model, beside the page, so that the page moves while it thinks. Takes { id, bitmap }, answers { id, best, ... } or { id, error }.

import { Classifier } from "./classifier.js";

let last = 0;
const loading = Classifier.load((loaded, all) => {
  const now = performance.now();
  if (now - last < 100 && loaded !== all) return;
  last = now;
  postMessage({ loaded, all });
});
loading.then(
  ({ seen, classes, bytes }) => postMessage({ ready: true, seen, classes: classes.length, bytes }),
  (error) => postMessage({ failed: String(error?.message ?? error) }),
);

addEventListener("message", async ({ data: { id, bitmap } }) => {
  try {
    const classifier = await loading;
    const { probabilities, ...figures } = await classifier.classify(bitmap, bitmap.width, bitmap.height);
    postMessage({ id, best: classifier.best(probabilities), ...figures });
  } catch (error) {
    postMessage({ id, error: String(error?.message ?? error) });
  } finally {
    bitmap.close();
  }
});
