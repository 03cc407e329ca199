// The timeline: one line per object, drawn frames as dots, doubtful ones as red ticks.
export class Timeline {
  constructor(canvas, go) {
    this.canvas = canvas;
    this.state = null; this.t = 0;
    new ResizeObserver(() => this.paint()).observe(canvas);
    const seek = (event) => {
      if (!this.state) return;
      const box = canvas.getBoundingClientRect();
      const part = (event.clientX - box.left) / box.width;
      go(Math.round(part * (this.state.length - 1)));
    };
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); seek(event); });
    canvas.addEventListener("pointermove", (event) => { if (event.buttons) seek(event); });
  }

  show(state, t, current) { this.state = state; this.t = t; this.current = current; this.paint(); }

  paint() {
    const { canvas, state } = this, ratio = devicePixelRatio || 1;
    canvas.width = Math.max(1, canvas.clientWidth * ratio); canvas.height = Math.max(1, canvas.clientHeight * ratio);
    if (!state) return;
    const g = canvas.getContext("2d"), w = canvas.width, h = canvas.height;
    const x = (t) => (t / Math.max(1, state.length - 1)) * (w - 8) + 4;
    g.fillStyle = "#0b1015"; g.fillRect(0, 0, w, h);
    const step = Math.min(12 * ratio, (h - 6) / Math.max(1, state.objects.length));
    state.objects.forEach((object, row) => {
      const y = 3 + row * step;
      g.globalAlpha = object.id === this.current ? 1 : 0.6;
      g.fillStyle = state.colours[object.id];
      for (const [a, b] of object.seen) g.fillRect(x(a) - 1, y + step * 0.25, x(b) - x(a) + 2, step * 0.45);
      g.fillStyle = "#ff5c48";
      for (const t of object.doubtful) g.fillRect(x(t) - ratio, y, 2 * ratio, step * 0.9);
      g.fillStyle = "#fff";
      for (const t of object.drawn) { g.beginPath(); g.arc(x(t), y + step * 0.47, Math.max(2, step * 0.32), 0, 7); g.fill(); }
      g.globalAlpha = 1;
    });
    g.fillStyle = "#59a8f2"; g.fillRect(x(this.t) - ratio, 0, 2 * ratio, h);
    canvas.setAttribute("aria-valuenow", this.t); canvas.setAttribute("aria-valuemax", state.length - 1);
    canvas.setAttribute("aria-valuetext", `frame ${this.t + 1} of ${state.length}`);
  }
}
