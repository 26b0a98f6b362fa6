// What the model is given of an image: upright RGB at its own size, as bytes. The model cuts and scales by itself.

// Above this many pixels an image is made smaller by a whole factor first: a browser has less memory than a large photograph wants.
export const MOST_PIXELS = 2 ** 21;
// At least so many pixels for one that the model wants are left then; a filter hardly tells them from all (Pillow's `reducing_gap`, of this value).
const GAP = 3;
const STRIP_PIXELS = 2 ** 20; // what is read at once, as browsers limit the size of a canvas

// A file or blob as an ImageBitmap as it was stored, turned as its Exif block says. Rejects where it is no image that the browser reads.
export function decode(blob) {
  return createImageBitmap(blob, { imageOrientation: "from-image", premultiplyAlpha: "none", colorSpaceConversion: "none" });
}

// The part that the model looks at: all of the short edge and, of the long one, as much in the middle, with what its filter takes from beside.
// As many pixels are left out on either side, so that the middle stays where it was; then nothing of the answer changes.
export function seenPart(width, height, size) {
  const short = Math.min(width, height);
  const beside = Math.ceil(short / size) + 2;
  const along = (long) => {
    const away = Math.max(0, Math.floor((long - short) / 2) - beside);
    return [away, long - 2 * away];
  };
  const [x, w] = along(width);
  const [y, h] = along(height);
  return { x, y, w, h };
}

// By which whole factor a part of w x h pixels is made smaller for a model that scales the short edge to `resize`; 1 is not at all.
export function reduction(w, h, resize) {
  const enough = Math.ceil(Math.sqrt((w * h) / MOST_PIXELS));
  return Math.max(1, Math.min(enough, Math.floor(Math.min(w, h) / (GAP * resize))));
}

// `source` (ImageBitmap, video, canvas) of width x height as { data: Uint8Array of [height, width, 3], width, height, factor }.
// seen: { image_size, resize } of the model. What is transparent is laid on white.
export function pixelsOf(source, width, height, seen) {
  const { x, y, w, h } = seenPart(width, height, seen.image_size);
  const factor = reduction(w, h, seen.resize);
  const across = Math.floor(w / factor);
  const down = Math.floor(h / factor);
  const left = x + Math.floor((w - across * factor) / 2);
  const top = y + Math.floor((h - down * factor) / 2);
  const data = new Uint8Array(across * down * 3);
  const rows = Math.max(1, Math.min(down, Math.floor(STRIP_PIXELS / (across * factor * factor)))); // of the result, in a strip
  const canvas = new OffscreenCanvas(across * factor, rows * factor);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  for (let row = 0; row < down; row += rows) {
    const taken = Math.min(rows, down - row);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(source, left, top + row * factor, canvas.width, taken * factor, 0, 0, canvas.width, taken * factor);
    const strip = context.getImageData(0, 0, canvas.width, taken * factor).data;
    reduce(strip, across, taken, factor, data.subarray(row * across * 3));
  }
  return { data, width: across, height: down, factor };
}

// RGBA of [rows * factor, across * factor, 4] to RGB of [rows, across, 3]: the mean of each square, rounded.
function reduce(rgba, across, rows, factor, rgb) {
  if (factor === 1) {
    for (let from = 0, to = 0; to < across * rows * 3; from += 4, to += 3) {
      rgb[to] = rgba[from];
      rgb[to + 1] = rgba[from + 1];
      rgb[to + 2] = rgba[from + 2];
    }
    return;
  }
  const count = factor * factor;
  const line = across * factor * 4;
  for (let row = 0, to = 0; row < rows; row++) {
    for (let column = 0; column < across; column++) {
      let red = 0, green = 0, blue = 0; // prettier-ignore
      for (let dy = 0; dy < factor; dy++) {
        let from = (row * factor + dy) * line + column * factor * 4;
        for (let dx = 0; dx < factor; dx++, from += 4) {
          red += rgba[from];
          green += rgba[from + 1];
          blue += rgba[from + 2];
        }
      }
      rgb[to++] = Math.floor(red / count + 0.5);
      rgb[to++] = Math.floor(green / count + 0.5);
      rgb[to++] = Math.floor(blue / count + 0.5);
    }
  }
}
