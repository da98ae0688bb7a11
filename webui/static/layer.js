// One layer of paint over a picture: strokes that can be undone, on a canvas of the picture's size.
// It knows nothing of pointers and zoom.

export const MASK = "#ff2d87"; // no picture has much of this colour

const KEPT = 200; // strokes that can be undone; older ones dry

/** What is on a layer is what was there at first, and then each of these done in turn. */
export class Layer {
  constructor() {
    this.canvas = document.createElement("canvas");
    this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    this.dry = document.createElement("canvas");
    this.acts = [];
    this.undone = [];
    this.wet = false; // whether there is something at all
  }

  /** Makes room for a picture; what was painted is gone. */
  size(width, height) {
    for (const canvas of [this.canvas, this.dry]) {
      canvas.width = width;
      canvas.height = height;
    }
    this.acts = [];
    this.undone = [];
    this.wet = false;
  }

  /** Begins with a picture's paint instead of none. */
  begin(paint) {
    const pen = this.dry.getContext("2d");
    pen.clearRect(0, 0, this.dry.width, this.dry.height);
    if (paint) pen.drawImage(paint, 0, 0, this.dry.width, this.dry.height);
    this.acts = [];
    this.undone = [];
    this.wet = Boolean(paint);
    this.paint();
  }

  /** {kind: "stroke", points, size, colour, alpha, erases}, {kind: "fill" | "invert", colour},
   * {kind: "clear"} or {kind: "put", paint}. */
  add(act) {
    this.undone = [];
    this.acts.push(act);
    if (this.acts.length > KEPT) done(this.dry.getContext("2d"), this.acts.shift());
    done(this.pen, act);
    this.wet = true;
  }

  undo() {
    const act = this.acts.pop();
    if (!act) return false;
    this.undone.push(act);
    this.paint();
    return true;
  }

  redo() {
    const act = this.undone.pop();
    if (!act) return false;
    this.acts.push(act);
    done(this.pen, act);
    return true;
  }

  paint() {
    this.pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.pen.drawImage(this.dry, 0, 0);
    for (const act of this.acts) done(this.pen, act);
  }

  /** Whether no pixel is painted. */
  get empty() {
    const { width, height } = this.canvas;
    if (!this.wet || !width) return true;
    const { data } = this.pen.getImageData(0, 0, width, height);
    for (let i = 3; i < data.length; i += 4) if (data[i]) return false;
    return true;
  }
}

function done(pen, act) {
  const { width, height } = pen.canvas;
  if (act.kind === "stroke") stroked(pen, act);
  else if (act.kind === "clear") pen.clearRect(0, 0, width, height);
  else if (act.kind === "put") {
    pen.clearRect(0, 0, width, height);
    pen.drawImage(act.paint, 0, 0, width, height);
  } else {
    pen.save();
    pen.globalCompositeOperation = act.kind === "invert" ? "source-out" : "source-over";
    pen.fillStyle = act.colour;
    pen.fillRect(0, 0, width, height);
    pen.restore();
  }
}

/** A stroke as one path, so that half strength stays half where it crosses itself. */
export function stroked(pen, { points, size, colour, alpha, erases }) {
  pen.save();
  pen.globalCompositeOperation = erases ? "destination-out" : "source-over";
  pen.globalAlpha = alpha;
  pen.strokeStyle = pen.fillStyle = colour;
  pen.lineWidth = size;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  const [first, ...rest] = points;
  if (!rest.length) {
    pen.arc(first.x, first.y, size / 2, 0, 2 * Math.PI);
    pen.fill();
  } else {
    pen.moveTo(first.x, first.y);
    let last = first;
    for (const point of rest) {
      // Through the middles, so that a quick curve has no corners.
      pen.quadraticCurveTo(last.x, last.y, (last.x + point.x) / 2, (last.y + point.y) / 2);
      last = point;
    }
    pen.lineTo(last.x, last.y);
    pen.stroke();
  }
  pen.restore();
}

/** A mask's picture as paint of one colour: white is painted, black is clear. */
export function paintOf(bitmap, width, height, colour) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0, width, height);
  const pixels = pen.getImageData(0, 0, width, height);
  const { data } = pixels;
  // Where parts are see-through, what is painted is what is not; else it is what is bright.
  let clear = false;
  for (let i = 3; i < data.length && !clear; i += 4) clear = data[i] < 255;
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  for (let i = 0; i < data.length; i += 4) {
    const bright = 0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2];
    const level = clear ? data[i + 3] : Math.round(bright);
    data[i] = r;
    data[i + 1] = g;
    data[i + 2] = b;
    data[i + 3] = level;
  }
  pen.putImageData(pixels, 0, 0);
  return canvas;
}

/** A layer as a mask's file: white on black, at the picture's own size. */
export function maskOf(layer) {
  const { width, height } = layer.canvas;
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext("2d");
  pen.drawImage(layer.canvas, 0, 0);
  pen.globalCompositeOperation = "source-in";
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, width, height);
  pen.globalCompositeOperation = "destination-over";
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, width, height);
  return filed(canvas);
}

/** A canvas as a PNG file. */
export const filed = (canvas) =>
  new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The picture is too large to paint on."))), "image/png"),
  );
