// The picture: frame, masks, what is being drawn; zoom and pan. Coordinates are proxy pixels.
export class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.frame = this.masks = null;
    this.size = [1, 1]; // columns, rows of the proxy
    this.scale = 1; this.left = 0; this.top = 0; this.fitted = true;
    this.draft = null; // function that draws what is not sent yet
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  resize() {
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (this.fitted) this.fit(); else this.paint();
  }

  fit() {
    const [columns, rows] = this.size;
    this.scale = Math.min(this.canvas.width / columns, this.canvas.height / rows);
    this.left = (this.canvas.width - columns * this.scale) / 2;
    this.top = (this.canvas.height - rows * this.scale) / 2;
    this.fitted = true;
    this.paint();
  }

  zoom(factor, event) {
    const ratio = devicePixelRatio || 1, box = this.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) * ratio, y = (event.clientY - box.top) * ratio;
    const scale = Math.min(40, Math.max(0.05, this.scale * factor));
    this.left = x - (x - this.left) * scale / this.scale;
    this.top = y - (y - this.top) * scale / this.scale;
    this.scale = scale; this.fitted = false;
    this.paint();
  }

  pan(dx, dy) {
    const ratio = devicePixelRatio || 1;
    this.left += dx * ratio; this.top += dy * ratio; this.fitted = false;
    this.paint();
  }

  // The proxy pixel under a pointer event.
  at(event) {
    const ratio = devicePixelRatio || 1, box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * ratio - this.left) / this.scale,
            ((event.clientY - box.top) * ratio - this.top) / this.scale];
  }

  paint() {
    const g = this.context;
    g.setTransform(1, 0, 0, 1, 0, 0);
    g.clearRect(0, 0, this.canvas.width, this.canvas.height);
    g.setTransform(this.scale, 0, 0, this.scale, this.left, this.top);
    g.imageSmoothingEnabled = this.scale < 3;
    if (this.frame) g.drawImage(this.frame, 0, 0, ...this.size);
    g.imageSmoothingEnabled = false;
    if (this.masks) { g.globalAlpha = 0.5; g.drawImage(this.masks, 0, 0); g.globalAlpha = 1; }
    if (this.draft) this.draft(g, 1 / this.scale);
  }
}

// A mask under the brush: an own canvas in proxy size, white where the object is.
export class Stroke {
  constructor(size, colour) {
    this.canvas = new OffscreenCanvas(...size);
    this.context = this.canvas.getContext("2d");
    this.colour = colour;
  }

  // Take over a grey PNG: its white becomes the brush's colour.
  load(bitmap) {
    const g = this.context, { width, height } = this.canvas;
    g.drawImage(bitmap, 0, 0, width, height);
    const data = g.getImageData(0, 0, width, height), pixels = data.data;
    const [r, green, b] = parse(this.colour);
    for (let i = 0; i < pixels.length; i += 4) {
      const inside = pixels[i] > 127;
      pixels[i] = r; pixels[i + 1] = green; pixels[i + 2] = b; pixels[i + 3] = inside ? 255 : 0;
    }
    g.putImageData(data, 0, 0);
  }

  line(from, to, width, erase) {
    const g = this.context;
    g.globalCompositeOperation = erase ? "destination-out" : "source-over";
    g.strokeStyle = g.fillStyle = this.colour;
    g.lineCap = g.lineJoin = "round"; g.lineWidth = width;
    g.beginPath(); g.moveTo(...from); g.lineTo(to[0] + 0.01, to[1]); g.stroke();
  }

  fill(points) {
    const g = this.context;
    g.globalCompositeOperation = "source-over"; g.fillStyle = this.colour;
    g.beginPath(); points.forEach((p, k) => (k ? g.lineTo(...p) : g.moveTo(...p))); g.closePath(); g.fill();
  }

  blob() { return this.canvas.convertToBlob({ type: "image/png" }); }
}

function parse(colour) { return [1, 3, 5].map((k) => parseInt(colour.slice(k, k + 2), 16)); }
