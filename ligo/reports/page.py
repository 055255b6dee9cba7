"""The page as a Jinja template. All values are escaped on the way in; nothing is loaded from outside.

The Content-Security-Policy makes the browser itself refuse any network access; 'unsafe-eval' is for
Bokeh's tick formatter.
"""

PAGE = r"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data: blob:;
 style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'">
<title>{{ title }} · ligo</title>
<style>
:root { --paper: #fff; --ink: #1c2126; --quiet: #5d6770; --line: #dde2e6; --wash: #f4f6f8; --accent: #1f6fc4 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181c; --ink: #e4e8eb; --quiet: #9aa5ae; --line: #333b42; --wash: #1d2329;
    --accent: #6cb0f5 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 60rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { font-size: 1.05rem; font-weight: 600; color: var(--quiet); margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .6rem }
h3 { font-size: 1rem; margin: 1.8rem 0 .4rem }
p { margin: .5rem 0; max-width: 46rem }
.answer { font-size: clamp(1.3rem, 3.4vw, 1.75rem); line-height: 1.3; font-weight: 600; margin: .5rem 0 1rem;
  text-wrap: balance }
.quiet, caption, figcaption { color: var(--quiet); font-size: .9rem }
.table { overflow-x: auto; margin: .6rem 0 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .93rem }
th, td { text-align: right; padding: .45rem 0 .45rem 1.1rem; border-bottom: 1px solid var(--line);
  white-space: nowrap }
th { font-weight: 500; color: var(--quiet); vertical-align: bottom }
figcaption { margin-top: .5rem }
th:first-child, td:first-child, .words th, .words td { text-align: left; padding-left: 0;
  padding-right: .8rem }
.words td { white-space: normal }
.savings td:last-child { font-weight: 650 }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .3rem 1.2rem; margin: .8rem 0 }
dt { color: var(--quiet) } dd { margin: 0; overflow-wrap: anywhere }
pre { background: var(--wash); padding: .8rem 1rem; border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere;  font: .85rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace }
ul { padding-left: 1.2rem; max-width: 46rem } figure { margin: 0 }
summary { cursor: pointer; color: var(--quiet); margin: .6rem 0 }
.bar { display: flex; flex-wrap: wrap; gap: .4rem .5rem; margin: .5rem 0; align-items: center }
.bar label { display: inline-flex; align-items: center; gap: .45rem; padding: .25rem .7rem;
  font-size: .9rem; border: 1px solid var(--line); border-radius: 99px; cursor: pointer; color: var(--quiet) }
.bar label[hidden] { display: none }
.bar label:has(:checked) { background: var(--wash); color: var(--ink); border-color: var(--quiet) }
.bar label:has(:focus-visible) { outline: 2px solid var(--accent); outline-offset: 2px }
.bar input { position: absolute; opacity: 0; pointer-events: none }
.bar i { width: 1.5rem; border-top: 3px solid; opacity: .35 } .bar :checked ~ i { opacity: 1 }
.bar i.dotted { border-top-style: dotted } .bar i.dashed, .bar i.dotdash { border-top-style: dashed }
#chart { min-height: 440px }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; gap: 0 } dd { margin-bottom: .5rem } }
</style>
</head>
<body>
{% macro savings_table(section) %}
  {% if not section.summary.tuning %}
  {% if section.savings %}
  <div class="table"><table class="savings">
    <tr>{% for column in columns %}<th>{{ column }}</th>{% endfor %}</tr>
    {% for row in section.savings %}
    <tr>{% for cell in row.cells() %}<td>{{ cell }}</td>{% endfor %}</tr>
    {% endfor %}
  </table></div>
  {% endif %}
  <p class="quiet">Target loss V*:
  {% if section.summary.target_loss %}
    {{ section.summary.target_loss.value | loss }}, the final validation loss of the arm
    “{{ section.summary.target_loss.of }}”.
  {% else %}not measured.{% endif %}</p>
  {% endif %}
{% endmacro %}
{% macro plain_table(columns, rows) %}
<div class="table"><table>
  <tr>{% for column in columns %}<th>{{ column }}</th>{% endfor %}</tr>
  {% for row in rows %}
  <tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
  {% endfor %}
</table></div>
{% endmacro %}
{% set single = sections | length == 1 %}
<h1>{{ title }}</h1>
{% if study %}
<p class="answer">{{ study.question }}</p>
{{ plain_table(study_columns, study_rows) }}
<p class="quiet">{{ explanation }}</p>
  {% if study.notes %}
<h2>Notes</h2>
<ul>
    {% for note in study.notes %}
  <li>{{ note }}</li>
    {% endfor %}
</ul>
  {% endif %}
{% endif %}
{% if single %}
<p class="answer">{{ sections[0].answer }}</p>
{{ savings_table(sections[0]) }}
{% else %}
  {% for section in sections %}
<h2>{{ section.name }}</h2>
<p><strong>{{ section.answer }}</strong></p>
{{ savings_table(section) }}
  {% endfor %}
{% endif %}

{% if bokeh %}
<script>{{ bokeh | safe }}</script>
{% endif %}
<h2>Loss curves</h2>
{% if chart %}
<figure>
  <div class="bar" role="radiogroup" aria-label="horizontal axis">
    <span class="quiet">Against</span>
    {% for key, label in (("flops", "FLOPs"), ("tokens", "tokens"), ("wall", "wall time")) %}
    <label><input type="radio" name="axis" value="{{ key }}"{% if loop.first %} checked{% endif %}>
      {{- label }}</label>
    {% endfor %}
  </div>
  <div class="bar" role="group" aria-label="arms">
    {% for line in chart.lines %}
    <label data-only="{{ line.only_axis }}">
      <input type="checkbox" name="line" value="{{ line.key }}"{% if line.visible %} checked{% endif %}>
      <i class="{{ line.style }}" style="border-top-color: {{ line.colour }}"></i>{{ line.label }}</label>
    {% endfor %}
  </div>
  <div id="chart"></div>
  <noscript>The chart needs JavaScript; the tables do not.</noscript>
  <figcaption>Strong lines: validation loss. Faint lines: training loss. Dashed horizontal line: V*.
    Diamonds: from there on the validation loss of an arm stays at or below V*. Dotted vertical lines: there the
    grown arm grew while it trained. On the FLOPs and wall-time axes
    the grown arm starts where learning the operator ended; the dotted curve starts after the small model's
    own training as well. Losses of the first steps may lie above the frame: pan or zoom with the tools beside
    the chart. Point at a line for its numbers.</figcaption>
</figure>
<script>
"use strict";
const axes = {{ chart.axes | tojson }};
Bokeh.set_log_level("error");
Bokeh.embed.embed_item({{ chart.item | tojson }}, "chart").then(() => {
  const plot = Bokeh.documents.map((document) => document.get_model_by_name("losses")).find((model) => model);
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
  function paint() {
    const style = getComputedStyle(document.documentElement);
    const [ink, line] = ["--ink", "--line"].map((name) => style.getPropertyValue(name).trim());
    for (const axis of [...plot.below, ...plot.left]) axis.setv({axis_label_text_color: ink,
      major_label_text_color: ink, axis_line_color: line, major_tick_line_color: line});
    for (const part of plot.center) {
      if (part.name !== "target") part.setv({grid_line_color: line});
      else part.setv(part.type === "Span" ? {line_color: ink} : {text_color: ink});
    }
  }
  for (const button of buttons("axis")) button.addEventListener("change", () => showAxis(button.value));
  for (const button of buttons("line")) button.addEventListener("change", () => showLine(button));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  paint();
  showAxis(buttons("axis").find((button) => button.checked).value);
  buttons("line").forEach(showLine);
});
</script>
{% else %}
<p>Not measured: the run has no curves.</p>
{% endif %}

{% for section in sections %}
{% set summary, plan = section.summary, section.plan %}
{% if not single %}<h2>{{ section.name }}: details</h2>{% endif %}
<h{{ 2 if single else 3 }}>Losses and costs of each arm</h{{ 2 if single else 3 }}>
<div class="table"><table>
  <tr><th>arm</th><th>final loss</th>
    <th>at equal tokens<br>({{ summary.equal_tokens.tokens | count }})</th>
    <th>at equal FLOPs<br>({{ summary.equal_flops.flops | flops }})</th>
    <th>tokens</th><th>compute</th><th>wall time</th><th>peak rate</th></tr>
  {% for arm in section.arms %}
  <tr><td>{{ arm.label or arm.name }}</td><td>{{ arm.final_loss | loss }}</td>
    <td>{{ arm.equal_tokens | loss }}</td><td>{{ arm.equal_flops | loss }}</td>
    <td>{{ arm.tokens | count }}</td>
    <td>{{ arm.flops | flops }}</td><td>{{ arm.wall_s | wall }}</td><td>{{ arm.peak_lr | general }}</td></tr>
  {% endfor %}
</table></div>

{% if section.targets %}
<h{{ 2 if single else 3 }}>Savings at several losses</h{{ 2 if single else 3 }}>
{{ plain_table(target_columns, section.targets) }}
{% endif %}

{% if section.phases %}
<h{{ 2 if single else 3 }}>What each phase took</h{{ 2 if single else 3 }}>
{{ plain_table(phase_columns, section.phases) }}
<p class="quiet">Device hours are of steps alone, evaluation and saving left out. Energy and CO2:
  {{ summary.cost.assumption }}.</p>
{% endif %}

{% if summary.tuning %}
<h{{ 2 if single else 3 }}>The tuning</h{{ 2 if single else 3 }}>
<dl>
  <dt>checkpoint</dt><dd>{{ summary.tuning.base_model }}: {{ summary.tuning.parameters | count }} parameters</dd>
  <dt>method</dt><dd>{{ summary.tuning.method }}{% if summary.tuning.quantization != "none" %}, base in
    {{ summary.tuning.quantization }}{% endif %}; {{ "{:,}".format(summary.tuning.trained_parameters) }} parameters trained</dd>
  <dt>examples</dt><dd>{{ "{:,}".format(summary.tuning.examples) }}, in {{ "{:,}".format(summary.tuning.steps) }} steps of
    {{ summary.tuning.batch_size }}</dd>
  <dt>loss before, after</dt><dd>{{ summary.tuning.start_loss | loss }}, {{ summary.tuning.loss | loss }} nats per token of a
    response ({{ summary.tuning.bits_per_byte | loss }} bits per byte)</dd>
  <dt>memory, storage</dt><dd>{{ summary.tuning.peak_memory_bytes | count }}B at most on a rank,
    {{ summary.tuning.stored_bytes | count }}B of what was tuned</dd>
</dl>
{% else %}
<h{{ 2 if single else 3 }}>The growth</h{{ 2 if single else 3 }}>
<dl>
  <dt>small model</dt><dd>{{ summary.small.name }}: {{ summary.small.parameters | count }} parameters,
    trained for {{ summary.small.train_flops | flops }} on {{ summary.small.train_tokens | count }} tokens,
    loss {{ summary.small.loss | loss }}</dd>
  <dt>target</dt><dd>{{ summary.target.name }}: {{ summary.target.parameters | count }} parameters,
    width {{ summary.target.hidden_size }}, {{ summary.target.num_layers }} layers</dd>
  <dt>operator</dt><dd>{{ summary.growth.operator }}{% if summary.growth.start %}, starting from
    {{ summary.growth.start }}{% endif %}; {{ summary.growth.operator_parameters | count }} learned numbers,
    {{ summary.growth.operator_flops | flops }}
    {%- if summary.growth.learned_against %}; learned against the small model held as
    {{ summary.growth.learned_against }}{% endif %}
    {%- if summary.growth.reused %}; taken from another run, where learning it took
    {{ summary.growth.reused.flops | flops }} on {{ summary.growth.reused.tokens | count }} tokens, which are not charged
    here{% endif %}</dd>
  <dt>same function</dt>
  <dd>
    {{- "yes" if summary.growth.exact is true else "no" if summary.growth.exact is false
      else "not declared" -}}
    ; the plan, about the start:
    {{ summary.growth.verdict or plan.exactness.verdict or "nothing" }}</dd>
  <dt>largest logit difference</dt><dd>{{ summary.growth.max_logit_difference | general }}</dd>
  <dt>loss at the start</dt><dd>{{ summary.growth.loss_at_start | loss }}</dd>
  <dt>loss after learning</dt><dd>{{ summary.growth.loss_after_learning | loss }}</dd>
</dl>
{% endif %}
{% if changes %}
<figure>
  <div id="changes"></div>
  <figcaption>What learning changed in the operator, on top of its start: coefficients of layers for each kind of tensor, and how
    heads are mixed. White is unchanged; each map has its own scale.
    {%- if changes.left_out %} {{ changes.left_out }} further maps are not drawn.{% endif %}</figcaption>
</figure>
<script>Bokeh.embed.embed_item({{ changes.item | tojson }}, "changes");</script>
{% endif %}
{% if summary.inner_growth %}
<div class="table"><table class="words">
  <tr><th>grown inside the run, at</th><th>width</th><th>layers</th><th>parameters</th><th>operator</th><th>exact</th>
    <th>loss before</th><th>after</th><th>cost</th></tr>
  {% for row in summary.inner_growth %}
  <tr><td>{{ row.at_tokens | count }} tokens</td><td>{{ row.hidden_size }}</td><td>{{ row.num_layers }}</td>
    <td>{{ row.parameters | count }}</td><td>{{ row.operator }}, moments {{ row.optimizer_state }}</td>
    <td>{{ "yes" if row.exact else "no" }}</td>
    <td>{{ row.loss_before | loss }}</td><td>{{ row.after.loss | loss }}</td><td>{{ row.operator_flops | flops }}</td></tr>
  {% endfor %}
</table></div>
{% endif %}
{% if plan.spaces %}
<div class="table"><table class="words">
  <tr><th>space</th><th>small</th><th>target</th><th>ratio</th><th>map</th><th>exact</th></tr>
  {% for row in plan.spaces %}
  <tr><td>{{ row.space }}</td><td>{{ row.small }}</td><td>{{ row.target }}</td>
    <td>{{ row.ratio | general }}</td><td>{{ row.map }}</td>
    <td>{{ "not declared" if row.exact is not defined else "yes" if row.exact else "no" }}</td></tr>
  {% endfor %}
</table></div>
{% endif %}
{% if plan.layers %}
<p>Layers: {{ plan.layers.description }}</p>
<details><summary>Each layer, and the changed configuration</summary>
<p>Target layer ← small layers: {% for sources in plan.layers.map %}{{ loop.index0 }}&nbsp;←&nbsp;
  {{- sources | join("+") if sources is iterable else sources }}{{ ", " if not loop.last }}{% endfor %}</p>
<div class="table"><table class="words">
  <tr><th>setting</th><th>small</th><th>target</th></tr>
  {% for key, old, new in section.changed %}
  <tr><td>{{ key }}</td><td>{{ old }}</td><td>{{ new }}</td></tr>
  {% endfor %}
</table></div></details>
{% endif %}
{% if plan.flops_per_token %}
<p class="quiet">FLOPs per training token at length {{ plan.flops_per_token.sequence_length }}:
  small {{ plan.flops_per_token.small_training | flops }}, target {{ plan.flops_per_token.target_training | flops }}</p>
{% endif %}

<h{{ 2 if single else 3 }}>What was not measured</h{{ 2 if single else 3 }}>
<ul>
  {% for item in summary.not_measured %}
  <li>{{ item }}</li>
  {% else %}
  <li>The run names nothing.</li>
  {% endfor %}
</ul>
{% if section.notes %}
<h3>Notes</h3>
<ul>
  {% for note in section.notes %}
  <li>{{ note }}</li>
  {% endfor %}
</ul>
{% endif %}

<h{{ 2 if single else 3 }}>How to repeat it</h{{ 2 if single else 3 }}>
<pre>{{ summary.command or "not recorded" }}</pre>
<p class="quiet">{{ summary.date }}{% if summary.hardware %} · {{ summary.hardware }}{% endif %}
  {% for package, version in (summary.versions or {}).items() %} · {{ package }} {{ version }}{% endfor %}</p>
{% endfor %}

{% if study or sections | rejectattr("summary.tuning") | list %}
<h2>How it was counted</h2>
<pre>saving = 1 - (C_small * charged + C_operator + C_grown(V*)) / C_scratch(V*)</pre>
<ul>
  <li>V* is the final validation loss of the scratch run, whose schedule is fitted to its own token budget.</li>
  <li>C_grown(V*) runs until the first evaluation from which on the validation loss stays at or below V*. If it never does, the
    table says “not reached”; nothing is extrapolated.</li>
  <li>C_operator is everything spent on learning the operator, the building of the weights included. What a growth inside
    the grown arm costs is in C_grown, from there on.</li>
  <li>C_small is the training of the small model: left out when it is already there (sunk), or counted
    (charged).</li>
  <li>Before its end, the scratch run is counted like the grown one: up to the first evaluation from which on it stays at or
    below the loss.</li>
  <li>FLOPs: training is three times the forward pass, lookups are free, the output
    projection is a matmul, attention is counted in full, recomputation is not counted.</li>
</ul>
{% endif %}
</body>
</html>
"""
