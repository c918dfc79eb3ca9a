"use strict";
/* Fills the page from the JSON in it. Names and messages become text nodes, never markup. */

const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
// the colours of evaluation/palette.py; a shape goes with each
const FAILED = { color: rgb("%VERMILION%"), shape: "cross", css: "%VERMILION%" };
const CONDITION_LOOKS = [
  ["%BLUE%", "disc"], ["%ORANGE%", "square"], ["%SKY%", "diamond"], ["%PURPLE%", "disc"],
].map(([css, shape]) => ({ color: rgb(css), shape, css }));
const TRUTH_LOOK = { color: rgb("%GREEN%"), shape: "ring", css: "%GREEN%" };
const DATABASE_LOOK = { color: rgb("%GREY%"), shape: "triangle", css: "%GREY%" };
const MOST_INLIERS = 150, MOST_OTHERS = 100;

const byId = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-") || key === "scope") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined)
    .map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

function decode(base64, Kind) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Kind(bytes.buffer);
}

function loadPhoto(photo) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("a photo of this page cannot be decoded"));
    image.src = `data:image/jpeg;base64,${photo.jpeg}`;
  });
}

function icon({ css, shape }) { // the marker of the 3-D view as a picture beside a word
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "-10 -10 20 20");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const paths = {
    disc: "M-7.5 0a7.5 7.5 0 1 0 15 0a7.5 7.5 0 1 0-15 0z", square: "M-6-6h12v12h-12z",
    diamond: "M0-8.5L8.5 0L0 8.5L-8.5 0z", triangle: "M0-8L7.5 6h-15z",
    cross: "M-8-5L-5-8L0-3L5-8L8-5L3 0L8 5L5 8L0 3L-5 8L-8 5L-3 0z",
    ring: "M-8.5 0a8.5 8.5 0 1 0 17 0a8.5 8.5 0 1 0-17 0zM-4.5 0a4.5 4.5 0 1 1 9 0a4.5 4.5 0 1 1-9 0z",
  };
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", paths[shape]);
  path.setAttribute("fill", css);
  path.setAttribute("fill-rule", "evenodd");
  path.setAttribute("stroke", "#000");
  path.setAttribute("stroke-width", "1.4");
  svg.append(path);
  return svg;
}

const data = JSON.parse(byId("data").textContent);
const queries = data.queries;
const PHOTOS = data.kind === "photos"; // of a map without queries: its photos are listed instead
const lookOf = (query) => (query.failed ? FAILED : CONDITION_LOOKS[query.condition % CONDITION_LOOKS.length]);
const scenes = data.scenes.map((made) => {
  const db = decode(made.db, Float32Array);
  return {
    ...made, db, points: decode(made.points, Float32Array), colors: decode(made.colors, Uint8Array),
    truth: decode(made.truth, Float32Array), looks: queries.map(lookOf),
    estimated: PHOTOS ? db : decode(made.estimated, Float32Array),
  };
});
let scene = scenes[0]; // the one that is seen
const WORDS = PHOTOS ? {
  view: "Points and photos", list: "Photos", one: "photo", figures: "Tracks and reprojection errors",
  inliers: "points both photos see", rays: "points of the chosen photo", through: "through its camera",
  hint: "Drag turns, right or Shift drag moves, the wheel zooms. Click a camera or a row of the list.",
  failed: "in no model", all: "all models",
} : {
  view: "Map and queries", list: "Queries", one: "query", figures: "Accuracy", inliers: "inliers",
  rays: "inliers of the chosen query", through: "through its camera",
  hint: "Drag turns, right or Shift drag moves, the wheel zooms. Click a query's camera or its row.",
  failed: "failed", all: "all conditions",
};
const anyTruth = queries.some((query) => query.error);

const metres = (value) => (value < 1 ? value.toFixed(3) : value.toFixed(2));
const degrees = (value) => value.toFixed(value < 1 ? 3 : 2);
const number = (value) => value.toLocaleString("en");
function outcome(query) { // a mark, and words
  if (PHOTOS) return query.failed ? ["✗", query.reason] : ["✓", data.conditions[query.condition]];
  if (query.failed) return ["✗", query.reason ?? query.status];
  if (!query.localized) return ["~", "pose of the first retrieved image"];
  return ["✓", query.error ? "within 0.25 m, 2°" : "localized"];
}

function table(target, columns, rows) {
  target.replaceChildren(
    element("thead", {}, element("tr", {}, ...columns.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell))))),
  );
}

function fillTop() {
  byId("title").textContent = data.heading;
  for (const part of ["view", "list", "figures"]) byId(`${part}-heading`).textContent = WORDS[part];
  byId("hint").textContent = WORDS.hint;
  byId("made").textContent = data.made;
  for (const [label, value] of data.facts) {
    byId("facts").append(element("div", {}, element("dt", {}, label), element("dd", {}, value)));
  }
  byId("notes").replaceChildren(...data.notes.map((note) => element("li", {}, note)));
  if (data.accuracy) {
    table(byId("accuracy"), data.accuracy.columns, data.accuracy.rows);
    byId("curves").src = `data:image/svg+xml;base64,${data.curves}`;
  } else if (scene.curves) {
    for (const id of ["accuracy", "accuracy-caption"]) byId(id).hidden = true;
    byId("curves").alt = "Histograms of the points' track lengths and reprojection errors";
    showCurves();
  } else {
    byId("accuracy-section").hidden = true;
  }
  if (data.stages.length) table(byId("stages"), ["stage", "seconds", "result"], data.stages);
  else byId("stages-section").hidden = true;
  for (const { name, values } of data.records) {
    const rows = element("table", {});
    table(rows, ["option", "value"], values);
    byId("records").append(element("details", {}, element("summary", {}, name), rows));
  }
}

function showCurves() { // of the model that is seen
  if (scene.curves) byId("curves").src = `data:image/svg+xml;base64,${scene.curves}`;
}

/* ---- the 3-D view ---- */

const tip = element("div", { className: "tip", hidden: true });
byId("view").append(tip);

function hover(kind, row, x, y) {
  tip.hidden = kind === null;
  if (kind === null) return;
  tip.textContent = kind === "query" ? queries[row].name : data.dbNames[row];
  tip.style.left = `${x + 12}px`;
  tip.style.top = `${y + 8}px`;
}

function pick(kind, row) {
  if (kind === "query") select(row);
  else byId("hint").textContent = `Database image ${data.dbNames[row]}`;
}

const viewer = createViewer(byId("scene"), scene, pick, hover);

function fillControls() {
  if (!viewer) {
    byId("no-webgl").hidden = false;
    for (const id of ["scene", "layers", "actions", "hint"]) byId(id).hidden = true;
    return;
  }
  const layer = (keys, label, ...icons) => {
    const box = element("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => keys.split(" ").forEach((key) => viewer.show(key, box.checked)));
    return element("label", {}, box, ...icons, ` ${label}`);
  };
  const slider = (label, min, max, value, set) => {
    const range = element("input", { type: "range", min, max, step: (max - min) / 40, value });
    range.addEventListener("input", () => set(Number(range.value)));
    return element("label", {}, `${label} `, range);
  };
  const ground = element("input", { type: "checkbox", checked: true });
  ground.addEventListener("change", () => viewer.setDark(ground.checked));
  const conditions = data.conditions.flatMap((name, i) => [
    icon(CONDITION_LOOKS[i % CONDITION_LOOKS.length]), ` ${name} `]);
  if (!PHOTOS && queries.some((query) => query.failed)) conditions.push(icon(FAILED), " failed ");
  const cameras = PHOTOS ? [layer("database estimated", "", " cameras: ", ...conditions)] : [
    layer("database", `${number(data.dbNames.length)} database images`, icon(DATABASE_LOOK)),
    layer("estimated", "", " estimated: ", ...conditions),
    anyTruth ? layer("truth", "true poses", icon(TRUTH_LOOK)) : ""];
  byId("layers").append(
    layer("points", "points"), element("span", { id: "shown" }), ...cameras, layer("rays", WORDS.rays),
    slider("points", 1, 7, viewer.pointSize(), viewer.setPointSize),
    slider("cameras", 0.2, 4.2, 1, viewer.setCameraSize),
    element("label", {}, ground, " dark ground"),
  );
  if (scenes.length > 1) {
    const chooser = element("select", { id: "model", "aria-label": "model" }, ...scenes.map((_, i) => {
      const count = queries.filter((query) => query.condition === i).length;
      return element("option", { value: i }, `model ${i + 1}: ${number(count)} photos`);
    }));
    chooser.addEventListener("change", () => {
      showScene(Number(chooser.value));
      viewer.reset();
    });
    byId("actions").prepend(chooser);
  }
  byId("reset").addEventListener("click", () => viewer.whole());
  byId("above").addEventListener("click", () => viewer.above());
  byId("place").addEventListener("click", () => { viewer.place(); sayPlace(); });
  byId("through").addEventListener("click", () => selected !== null && viewer.through(selected));
  sayScene();
}

function sayPlace() {
  const places = scene.places, next = (viewer.placeSeen() + 1) % places.length;
  byId("place").hidden = places.length < 2;
  byId("place").textContent = `place ${next + 1} of ${places.length}`;
  byId("place").title = `${number(places[next].cameras.length)} cameras that see the same points`;
}

function sayScene() {
  byId("shown").textContent = scene.shown < scene.total
    ? `${number(scene.shown)} of ${number(scene.total)}` : number(scene.total);
  sayPlace();
}

function showScene(index) { // one of several models
  if (scene === scenes[index]) return;
  scene = scenes[index];
  viewer.load(scene);
  byId("model").value = index;
  showCurves();
  sayScene();
}

/* ---- one query ---- */

let selected = null, enlarged = null;
const toggles = { inliers: true, others: false, keypoints: false };

function some(count, most) { // evenly spread indices
  if (count <= most) return Array.from({ length: count }, (_, i) => i);
  return Array.from({ length: most }, (_, i) => Math.floor((i * count) / most));
}

function inlierWords(query) {
  return PHOTOS && query.failed ? "verified matches" : WORDS.inliers;
}

/* Draw a query beside its best database image, or alone with its inliers. */
async function drawPicture(canvas, query, width) {
  const picture = query.picture;
  const photos = picture
    ? await Promise.all([loadPhoto(picture.query), loadPhoto(picture.database)])
    : [await loadPhoto(query.thumbnail)];
  const gap = photos.length > 1 ? 6 : 0;
  const aspects = photos.map((photo) => photo.naturalWidth / photo.naturalHeight);
  const height = Math.min((width - gap) / aspects.reduce((a, b) => a + b), photos.length > 1 ? Infinity : 360);
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const boxes = [[0, aspects[0] * height], [aspects[0] * height + gap, (aspects[1] ?? 0) * height]];
  photos.forEach((photo, i) => pen.drawImage(photo, boxes[i][0], 0, boxes[i][1], height));
  const at = (xy, i, box) => [
    boxes[box][0] + (xy[i] / 65535) * boxes[box][1], (xy[i + 1] / 65535) * height];
  const dots = (xy, color, radius) => {
    pen.fillStyle = color;
    pen.strokeStyle = "#000";
    pen.lineWidth = 0.5;
    for (let i = 0; i < xy.length; i += 2) {
      pen.beginPath();
      pen.arc(...at(xy, i, 0), radius, 0, 7);
      pen.fill();
      if (radius > 1.5) pen.stroke();
    }
  };
  if (!picture) {
    const xy = decode(query.inlierXY, Uint16Array);
    dots(xy, "%SKY%", 2.2);
    if (PHOTOS && !query.inliers) return "";
    const what = PHOTOS ? "keypoints with a point" : "inliers";
    return `${number(xy.length / 2)} of ${number(query.inliers)} ${what} on its thumbnail`;
  }
  const matches = decode(picture.matches, Uint16Array), inliers = decode(picture.inliers, Uint8Array);
  const good = inliers.indexOf(0) < 0 ? inliers.length : inliers.indexOf(0);
  const words = [];
  if (toggles.keypoints) {
    const xy = decode(picture.keypoints, Uint16Array);
    dots(xy, "%ORANGE%", 1.3);
    words.push(`${number(xy.length / 2)} of ${number(picture.numKeypoints)} keypoints (orange dots)`);
  }
  const lines = (index, color, dash, thickness, ends) => {
    pen.setLineDash(dash);
    for (const i of index) {
      const from = at(matches, 4 * i, 0), to = at(matches, 4 * i + 2, 1);
      pen.strokeStyle = color;
      pen.lineWidth = thickness;
      pen.beginPath();
      pen.moveTo(...from);
      pen.lineTo(...to);
      pen.stroke();
      if (!ends) continue;
      for (const end of [from, to]) {
        pen.beginPath();
        pen.arc(...end, 2, 0, 7);
        pen.fillStyle = color;
        pen.fill();
      }
    }
    pen.setLineDash([]);
  };
  if (toggles.others) {
    const index = some(inliers.length - good, MOST_OTHERS).map((i) => good + i);
    lines(index, "rgba(213,94,0,0.9)", [5, 3], 0.9, false);
    words.push(`${number(index.length)} of ${number(picture.numMatches - good)} other matches (dashed)`);
  }
  if (toggles.inliers) {
    const index = some(good, MOST_INLIERS);
    lines(index, "rgba(86,180,233,0.75)", [], 0.9, true);
    words.push(`${number(index.length)} of ${number(good)} ${inlierWords(query)} (solid, dots at their ends)`);
  }
  return `${words.join("; ") || "photos only"}. Left this ${WORDS.one}, right ${data.dbNames[picture.dbIndex]}.`;
}

function pictureOf(query) {
  if (!query.picture && !query.thumbnail) return element("p", { className: "caption" }, "No photo in this report.");
  const canvas = element("canvas", { className: "picture", title: "click to enlarge" });
  const caption = element("p", { className: "caption" });
  const paint = async () => {
    const width = Math.max(canvas.parentElement?.clientWidth ?? 0, 240);
    caption.textContent = await drawPicture(canvas, query, width);
  };
  const boxes = query.picture ? Object.keys(toggles).map((key) => {
    const box = element("input", { type: "checkbox", checked: toggles[key] });
    box.addEventListener("change", () => { toggles[key] = box.checked; paint(); });
    return element("label", {}, box, { inliers: ` ${inlierWords(query)}`, others: " other matches", keypoints: " keypoints" }[key]);
  }) : [];
  if (query.picture) canvas.addEventListener("click", () => enlarge(query));
  requestAnimationFrame(paint);
  return element("div", { className: "match" }, element("div", { className: "toggles" }, ...boxes), canvas, caption);
}

function enlarge(query) {
  enlarged?.remove();
  const close = element("button", { type: "button" }, "close");
  const canvas = element("canvas", { className: "picture" });
  const caption = element("p", { className: "caption" });
  enlarged = element("dialog", {}, element("div", { className: "bar" }, element("strong", {}, query.name), close), canvas, caption);
  close.addEventListener("click", () => enlarged.close());
  document.body.append(enlarged);
  enlarged.showModal();
  drawPicture(canvas, query, canvas.parentElement.clientWidth - 32)
    .then((words) => { caption.textContent = words; });
}

function withBreaks(name) { // a name breaks at its slashes before it breaks anywhere
  const parts = name.split("/");
  return element("span", { title: name }, ...parts.flatMap((part, i) => (
    i < parts.length - 1 ? [`${part}/`, element("wbr")] : [part])));
}

function retrievedTable(query) {
  const most = Math.max(1, ...query.retrieved.map((row) => row[1]));
  const counted = (value) => element("span", {}, element("meter", { max: most, value }), ` ${number(value)}`);
  const made = element("table", { className: "retrieved" });
  let caption;
  if (PHOTOS) {
    caption = query.failed ? "The photo with most verified matches"
      : `${query.retrieved.length} photos that see the same points`;
    table(made, ["", "photo", query.failed ? "verified matches" : "points both see"],
      query.retrieved.map(([index, count], rank) => {
        const name = element("button", { type: "button", className: "link" }, withBreaks(data.dbNames[index]));
        name.addEventListener("click", () => select(index));
        return [rank + 1, name, counted(count)];
      }));
  } else {
    caption = `${query.retrieved.length} database images used`;
    const columns = ["", "database image", "matches", "inliers it sees"];
    if (anyTruth) columns.push("away", "same view");
    table(made, columns, query.retrieved.map(([index, matches, support, away, sees], rank) => {
      const row = [rank + 1, withBreaks(data.dbNames[index]), counted(matches), number(support)];
      if (anyTruth) row.push(away === null ? "" : `${away.toFixed(1)} m`, sees === null ? "" : sees ? "yes" : "no");
      return row;
    }));
  }
  if (!query.retrieved.length) return null;
  return element("details", { open: true }, element("summary", {}, caption),
    element("div", { className: "scroll short" }, made));
}

function factsOf(query) {
  if (PHOTOS) {
    return [
      query.failed ? null : ["keypoints with a point", query.keypoints === null ? number(query.inliers)
        : `${number(query.inliers)} of ${number(query.keypoints)}`],
      query.failed && query.keypoints !== null ? ["keypoints", number(query.keypoints)] : null,
      query.reprojection === null ? null : ["mean reprojection error", `${query.reprojection.toFixed(2)} px`],
      query.track === null ? null : ["mean track length of its points", `${query.track.toFixed(1)} photos`],
      query.camera ? ["camera", query.camera] : null,
    ].filter(Boolean);
  }
  return [
    ["condition", data.conditions[query.condition]],
    query.error ? ["error", `${metres(query.error[0])} m, ${degrees(query.error[1])}°`] : null,
    ["inliers", `${number(query.inliers)} of ${number(query.correspondences)} 2-D–3-D matches`],
    ["matches with points", number(query.matches)], ["keypoints", number(query.keypoints)],
    ["status in the log", query.status],
  ].filter(Boolean);
}

function select(row) {
  selected = row;
  const query = queries[row];
  for (const line of document.querySelectorAll("#queries tr[aria-selected=true]")) line.setAttribute("aria-selected", "false");
  const line = document.querySelector(`#queries tr[data-row="${row}"]`);
  line?.setAttribute("aria-selected", "true");
  const [mark, words] = outcome(query);
  const step = (by, label) => {
    const button = element("button", { type: "button" }, label);
    button.addEventListener("click", () => move(by));
    return button;
  };
  byId("detail").replaceChildren(
    element("div", { className: "bar" },
      element("h3", {}, icon(lookOf(query)), ` ${query.name}`), element("span", {}, step(-1, "‹"), step(1, "›"))),
    element("p", { className: query.failed ? "outcome bad" : "outcome" }, `${mark} ${query.failed ? query.text : words}`),
    pictureOf(query),
    element("dl", { className: "facts" }, ...factsOf(query).map(([label, value]) => element("div", {}, element("dt", {}, label), element("dd", {}, value)))),
    ...[retrievedTable(query)].filter(Boolean),
  );
  if (!viewer) return;
  const posed = !(PHOTOS && query.failed);
  byId("through").disabled = !posed;
  if (PHOTOS && posed) showScene(query.condition);
  const used = query.retrieved.filter((image) => image[PHOTOS ? 1 : 2] > 0).map((image) => image[0]);
  viewer.select(row, decode(query.points, Uint32Array), used);
  viewer.approach(row);
  const photo = query.picture ? query.picture.query : query.thumbnail;
  if (photo) loadPhoto(photo).then((image) => { if (selected === row) viewer.setPhoto(image); });
}

/* ---- the list of queries ---- */

const thumbnail = ["", null, (query) => element("img", { className: "thumbnail", alt: "" })];
const mark = (query) => element("span", {}, icon(lookOf(query)),
  PHOTOS && query.failed ? ` ✗ ${query.text}` : ` ${outcome(query).join(" ")}`);
const optional = (value, words) => (value === null ? "" : words(value));
const COLUMNS = PHOTOS ? [ // heading, value to sort by, cell
  thumbnail,
  ["photo", (query) => query.name, (query) => query.name],
  ["outcome", (query) => (query.failed ? -1 : query.condition), (query) => mark(query)],
  ["points seen", (query) => (query.failed ? -1 : query.inliers), (query) => (query.failed ? "" : number(query.inliers))],
  ["keypoints", (query) => query.keypoints ?? -1, (query) => optional(query.keypoints, number)],
  ["reprojection px", (query) => -(query.reprojection ?? -1), (query) => optional(query.reprojection, (v) => v.toFixed(2))],
  ["track length", (query) => query.track ?? -1, (query) => optional(query.track, (v) => v.toFixed(1))],
  ["neighbours", (query) => (query.failed ? -1 : query.retrieved.length), (query) => (query.failed ? "" : number(query.retrieved.length))],
] : [
  thumbnail,
  ["query", (query) => query.name, (query) => query.name],
  ["condition", (query) => query.condition, (query) => data.conditions[query.condition]],
  ["outcome", (query) => (query.failed ? 0 : query.localized ? 2 : 1), (query) => mark(query)],
  ["metres", (query) => -(query.error?.[0] ?? -1), (query) => (query.error ? metres(query.error[0]) : "")],
  ["degrees", (query) => -(query.error?.[1] ?? -1), (query) => (query.error ? degrees(query.error[1]) : "")],
  ["inliers", (query) => query.inliers, (query) => number(query.inliers)],
  ["2-D–3-D", (query) => query.correspondences, (query) => number(query.correspondences)],
  ["keypoints", (query) => query.keypoints, (query) => number(query.keypoints)],
  ["retrieved with the view", (query) => query.retrieved.filter((row) => row[4]).length,
    (query) => `${query.retrieved.filter((row) => row[4]).length} of ${query.retrieved.length}`],
].filter(([name]) => anyTruth || !["metres", "degrees", "retrieved with the view"].includes(name));

let order = queries.map((_, i) => i), sortedBy = -1, downward = false;
const lines = [];

const thumbnails = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    const photo = queries[Number(target.closest("tr").dataset.row)].thumbnail;
    target.src = `data:image/jpeg;base64,${photo.jpeg}`;
    thumbnails.unobserve(target);
  }
}, { rootMargin: "300px" });

function fillList() {
  const headings = COLUMNS.map(([name, key], i) => {
    const cell = element("th", { scope: "col" });
    if (key) {
      const button = element("button", { type: "button" }, name);
      button.addEventListener("click", () => sortBy(i));
      cell.append(button);
    }
    return cell;
  });
  byId("queries").tHead.append(element("tr", {}, ...headings));
  queries.forEach((query, row) => {
    const line = element("tr", { tabIndex: -1 }, ...COLUMNS.map(([, , cell]) => element("td", {}, cell(query))));
    line.dataset.row = row;
    line.addEventListener("click", () => { select(row); byId("explorer").scrollIntoView({ block: "nearest" }); });
    lines.push(line);
    if (query.thumbnail) thumbnails.observe(line.querySelector("img"));
    else line.querySelector("img").remove();
  });
  const text = element("input", { type: "search", placeholder: "part of a name or reason", "aria-label": "filter" });
  const condition = element("select", { "aria-label": "condition" }, element("option", { value: "" }, WORDS.all),
    ...data.conditions.map((name, i) => element("option", { value: i }, name)));
  const failed = element("input", { type: "checkbox" });
  const count = element("span", { className: "caption" });
  const filter = () => {
    const wanted = text.value.toLowerCase();
    let kept = 0;
    queries.forEach((query, row) => {
      const keep = (!wanted || `${query.name} ${query.text}`.toLowerCase().includes(wanted))
        && (condition.value === "" || query.condition === Number(condition.value))
        && (!failed.checked || query.failed);
      lines[row].hidden = !keep;
      kept += keep;
    });
    count.textContent = `${number(kept)} of ${number(queries.length)}`;
  };
  for (const input of [text, condition, failed]) input.addEventListener("input", filter);
  const numFailed = queries.filter((query) => query.failed).length;
  const onlyFailed = element("label", {}, failed, ` ${WORDS.failed} only (${number(numFailed)})`);
  byId("filters").append(text, data.conditions.length > 1 ? condition : "", numFailed ? onlyFailed : "", count);
  filter();
  // the worst first
  sortBy(COLUMNS.findIndex(([name]) => name === (PHOTOS ? "points seen" : anyTruth ? "metres" : "inliers")));
  byId("queries").addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by) { event.preventDefault(); move(by); }
  });
}

function sortBy(column) {
  downward = column === sortedBy ? !downward : false;
  sortedBy = column;
  const key = COLUMNS[column][1];
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  order = queries.map((_, i) => i).sort((a, b) => (downward ? -1 : 1) * compare(key(queries[a]), key(queries[b])) || a - b);
  byId("queries").tBodies[0].replaceChildren(...order.map((row) => lines[row]));
  [...byId("queries").tHead.rows[0].cells].forEach((cell, i) => {
    cell.setAttribute("aria-sort", i !== column ? "none" : downward ? "descending" : "ascending");
  });
}

function move(by) { // to the next query of the list as it is sorted and filtered
  const visible = order.filter((row) => !lines[row].hidden);
  const next = visible[Math.max(0, Math.min(visible.length - 1, visible.indexOf(selected) + by))];
  if (next === undefined) return;
  select(next);
  lines[next].focus({ preventScroll: true });
  lines[next].scrollIntoView({ block: "nearest" });
}

fillTop();
fillControls();
fillList();
if (queries.length) select(order.find((row) => !PHOTOS || queries[row].condition === 0) ?? order[0]);
if (viewer) { // the first model
  if (scenes.length > 1) showScene(0);
  viewer.reset();
}
window.samfeatReport = { viewer, select }; // for scripts and tests
