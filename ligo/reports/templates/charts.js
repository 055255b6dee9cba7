"use strict";
Bokeh.set_log_level("error");

// Ink and lines of all charts are the page's, light or dark.
function paint() {
  const style = getComputedStyle(document.documentElement);
  const [ink, quiet, line] = ["--ink", "--quiet", "--line"].map((name) => style.getPropertyValue(name).trim());
  const axis = {axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: line, major_tick_line_color: line};
  const colours = {
    LinearAxis: axis, LogAxis: axis, CategoricalAxis: axis,
    Grid: {grid_line_color: line},
    Title: {text_color: quiet},
    Legend: {label_text_color: ink},
    Label: {text_color: ink},
    Span: {line_color: ink},
  };
  for (const {all_models} of Bokeh.documents)
    for (const model of all_models)
      if (model.type in colours) model.setv(colours[model.type]);
}

// Charts inside details are drawn when these are opened: only then is their width known.
function draw(id, then = () => {}) {
  const embed = () => Bokeh.embed.embed_item(charts[id], id).then(then).then(paint);
  const details = document.getElementById(id).closest("details");
  if (details && !details.open) details.addEventListener("toggle", embed, {once: true});
  else embed();
}

function steerLosses() {
  const plot = Bokeh.documents.map((found) => found.get_model_by_name("losses")).find((model) => model);
  const buttons = (name) => [...document.querySelectorAll(`input[name=${name}]`)];
  function showAxis(key) {
    for (const {glyph} of plot.renderers) glyph.x = {field: key};
    plot.below[0].axis_label = axes[key];
    for (const label of document.querySelectorAll("label[data-only]"))
      label.hidden = label.dataset.only !== "" && label.dataset.only !== key;
    plot.reset.emit();
  }
  function showLine({value, checked}) {
    for (const renderer of plot.renderers) if (renderer.name === value) renderer.visible = checked;
  }
  for (const button of buttons("axis")) button.addEventListener("change", () => showAxis(button.value));
  for (const button of buttons("line")) button.addEventListener("change", () => showLine(button));
  showAxis(buttons("axis").find((button) => button.checked).value);
  buttons("line").forEach(showLine);
}

for (const id of Object.keys(charts)) draw(id, id === "losses" ? steerLosses : undefined);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
