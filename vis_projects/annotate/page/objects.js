// The list of objects. A row stays the same element as long as its object is there: a press, the focus and
// a name half typed outlive what the worker and other pages change meanwhile.

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export class ObjectList {
  // commands: choose(id), rename(id, name), typed() after the field of a name was left, and buttons, each
  // {text, work(id), title(object), when(object, current): whether it is there; left out: always}.
  constructor(list, commands) {
    this.list = list;
    this.commands = commands;
    this.rows = new Map();
  }

  show({ objects, colours }, current) {
    const ids = new Set(objects.map((object) => object.id));
    for (const [id, row] of this.rows) if (!ids.has(id)) { row.item.remove(); this.rows.delete(id); }
    objects.forEach((object, place) => {
      if (!this.rows.has(object.id)) this.rows.set(object.id, this.makeRow(object.id));
      const row = this.rows.get(object.id), there = this.list.children[place];
      if (there !== row.item) this.list.insertBefore(row.item, there ?? null);
      row.item.setAttribute("aria-current", object.id === current);
      row.swatch.style.background = colours[object.id];
      if (document.activeElement !== row.name) row.name.value = object.name;
      for (const [button, { title, when }] of row.buttons) {
        button.title = title(object);
        button.hidden = !(when?.(object, current) ?? true);
      }
    });
  }

  makeRow(id) {
    const { choose, rename, typed, buttons } = this.commands;
    const swatch = element("span", { className: "swatch" });
    const name = element("input", { type: "text", maxLength: 200, ariaLabel: `Name of object ${id}`, onblur: typed });
    name.dataset.name = id;
    name.onchange = () => rename(id, name.value);
    const number = element("span", { className: "soft", textContent: id });
    const made = buttons.map((spec) => {
      const onclick = (event) => { event.stopPropagation(); spec.work(id); };
      return [element("button", { textContent: spec.text, onclick }), spec];
    });
    const more = element("div", { className: "more" }, ...made.map(([button]) => button));
    const item = element("li", { onclick: () => choose(id) }, element("div", { className: "row" }, swatch, name, number), more);
    item.dataset.id = id;
    return { item, swatch, name, buttons: made };
  }
}
