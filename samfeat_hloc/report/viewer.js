"use strict";
/* The 3-D view: WebGL 1, z is up, nothing but this file. Poses are rows of 14 numbers: centre,
   right, down, forward, and the tangents of half the field of view; NaN where there is none. */

const POSE = 14;
const FOV = 0.9; // radians, from top to bottom
const PITCH = 0.5; // radians, how far the first view looks down
const GROUND = { dark: [0.1, 0.115, 0.135], light: [1, 1, 1] };
const SAMPLE = 4000; // points that the first view is fitted to
const SEEN_LOOK = { color: [0.94, 0.89, 0.26], shape: "disc" };
const SHAPES = { disc: 0, cross: 1, ring: 2, triangle: 3, square: 4, diamond: 5 };

const POINT_SHADER = [`
attribute vec3 position;
attribute vec3 color;
uniform mat4 matrix;
uniform float size;
uniform float dark;
varying vec3 shade;
void main() {
  gl_Position = matrix * vec4(position, 1.0);
  gl_PointSize = size;
  // Never as the ground: lifted from a dark one, dimmed on a light one.
  shade = dark > 0.5 ? 0.22 + 0.78 * color : color * 0.78;
}`, `
precision mediump float;
varying vec3 shade;
void main() { gl_FragColor = vec4(shade, 1.0); }`];

const LINE_SHADER = [`
attribute vec3 position;
uniform mat4 matrix;
void main() { gl_Position = matrix * vec4(position, 1.0); }`, `
precision mediump float;
uniform vec4 color;
void main() { gl_FragColor = color; }`];

const MARKER_SHADER = [`
attribute vec3 position;
attribute vec3 color;
attribute float shape;
uniform mat4 matrix;
uniform float size;
varying vec3 shade;
varying float kind;
void main() {
  gl_Position = matrix * vec4(position, 1.0);
  gl_PointSize = size;
  shade = color;
  kind = shape;
}`, `
precision mediump float;
varying vec3 shade;
varying float kind;
uniform vec3 ink;
// Distance to the shape's edge, negative inside; p from -1 to 1, y up.
float edge(vec2 p) {
  if (kind < 0.5) return length(p) - 0.75;
  if (kind < 1.5) {
    vec2 q = abs(vec2(p.x + p.y, p.x - p.y)) * 0.7071;
    return max(min(q.x, q.y) - 0.22, max(q.x, q.y) - 0.9);
  }
  if (kind < 2.5) return abs(length(p) - 0.66) - 0.2;
  if (kind < 3.5) return max(abs(p.x) * 0.87 + p.y * 0.5 - 0.3, -p.y - 0.6);
  if (kind < 4.5) return max(abs(p.x), abs(p.y)) - 0.62;
  return abs(p.x) + abs(p.y) - 0.85;
}
void main() {
  float d = edge(vec2(gl_PointCoord.x, 1.0 - gl_PointCoord.y) * 2.0 - 1.0);
  if (d > 0.1) discard;
  gl_FragColor = vec4(d > -0.1 ? ink : shade, 1.0);
}`];

const PHOTO_SHADER = [`
attribute vec3 position;
attribute vec2 place;
uniform mat4 matrix;
varying vec2 at;
void main() { gl_Position = matrix * vec4(position, 1.0); at = place; }`, `
precision mediump float;
varying vec2 at;
uniform sampler2D photo;
uniform float opacity;
void main() { gl_FragColor = vec4(texture2D(photo, at).rgb, opacity); }`];

const add = (a, b, k = 1) => [a[0] + k * b[0], a[1] + k * b[1], a[2] + k * b[2]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [
  a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => { const n = Math.hypot(...a) || 1; return [a[0] / n, a[1] / n, a[2] / n]; };

function posePart(poses, row, part) { // 0 centre, 1 right, 2 down, 3 forward
  const start = row * POSE + 3 * part;
  return [poses[start], poses[start + 1], poses[start + 2]];
}

function hasPose(poses, row) { return !Number.isNaN(poses[row * POSE]); }

/* The four corners of a camera's picture at a distance: left top, right top, right bottom, left
   bottom. */
function corners(poses, row, distance) {
  const [centre, right, down, forward] = [0, 1, 2, 3].map((part) => posePart(poses, row, part));
  const x = distance * poses[row * POSE + 12], y = distance * poses[row * POSE + 13];
  const middle = add(centre, forward, distance);
  return [[-x, -y], [x, -y], [x, y], [-x, y]].map(
    ([a, b]) => add(add(middle, right, a), down, b));
}

/* Ends of the lines of a pyramid for each row: its edges, its base, and a roof that says where up
   is. */
function frustums(poses, rows, distance) {
  const lines = [];
  for (const row of rows) {
    if (!hasPose(poses, row)) continue;
    const centre = posePart(poses, row, 0);
    const c = corners(poses, row, distance);
    const up = posePart(poses, row, 2).map((value) => -value);
    const roof = add(
      add(c[0], add(c[1], c[0], -1), 0.5), up, 0.35 * distance * poses[row * POSE + 13]);
    for (let i = 0; i < 4; i++) lines.push(...centre, ...c[i], ...c[i], ...c[(i + 1) % 4]);
    lines.push(...c[0], ...roof, ...roof, ...c[1]);
  }
  return new Float32Array(lines);
}

/* CSS pixels of a point: few are drawn larger. */
function pointSize(scene) {
  return 1.6 + 0.8 * Math.max(0, 5 - Math.log10(Math.max(scene.points.length / 3, 100)));
}

/* Draws `scene` into `canvas`.

   scene: points, colors, radius; places: {low, high, cameras}, the first one is seen at first; db,
   estimated, truth (poses); looks: for each query {color, shape} of its estimate.
   onPick(kind, row): a click on a "query" or a "database" camera; onHover(kind, row, x, y), kind
   null when the pointer is on none.
   Returns null where there is no WebGL. */
function createViewer(canvas, first, onPick, onHover) {
  const gl = canvas.getContext("webgl", { antialias: true, alpha: false });
  if (!gl) return null;

  let scene = first;
  const state = {
    visible: { points: true, database: true, estimated: true, truth: true, rays: true },
    pointSize: pointSize(first), cameraFactor: 1, selected: null, retrieved: [], rays: null, dark: true,
    seen: null, photo: null, through: null, fov: FOV,
    target: [0, 0, 0], distance: 1, yaw: 0, pitch: PITCH, seenPlace: 0,
  };
  const ink = () => (state.dark ? [1, 1, 1] : [0, 0, 0]);
  const sizeOf = (factor) => factor * state.cameraFactor * scene.cameraSize;
  // the models of a report have poses of the same photos
  const numDb = scene.db.length / POSE, numQueries = scene.estimated.length / POSE;
  const crowd = numQueries > 300 ? 0.65 : 1; // smaller markers where there are many

  function program([vertex, fragment]) {
    const made = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) {
        throw new Error(gl.getShaderInfoLog(shader));
      }
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    return made;
  }

  function buffer(data) {
    const made = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, made);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    return made;
  }

  function markers(poses, look, count) { // buffers of all cameras of a kind
    const position = [], color = [], shape = [];
    for (let row = 0; row < count; row++) {
      if (!hasPose(poses, row)) continue;
      const { color: of, shape: kind } = look(row);
      position.push(...posePart(poses, row, 0));
      color.push(...of);
      shape.push(SHAPES[kind]);
    }
    return {
      count: shape.length, position: buffer(new Float32Array(position)),
      color: buffer(new Float32Array(color)), shape: buffer(new Float32Array(shape)),
    };
  }

  let drawing;
  function upload() { // all that the GPU holds; again after it lost its context
    const all = (count) => Array.from({ length: count }, (_, i) => i);
    const errors = [];
    for (const row of all(numQueries)) {
      if (hasPose(scene.estimated, row) && hasPose(scene.truth, row)) {
        errors.push(...posePart(scene.estimated, row, 0), ...posePart(scene.truth, row, 0));
      }
    }
    drawing = {
      pointProgram: program(POINT_SHADER), lineProgram: program(LINE_SHADER),
      markerProgram: program(MARKER_SHADER), photoProgram: program(PHOTO_SHADER),
      points: buffer(scene.points), colors: buffer(scene.colors),
      marks: {
        database: markers(scene.db, () => DATABASE_LOOK, numDb),
        truth: markers(scene.truth, () => TRUTH_LOOK, numQueries),
        estimated: markers(scene.estimated, (row) => scene.looks[row], numQueries),
      },
      errors: { data: buffer(new Float32Array(errors)), count: errors.length / 3 },
      scratch: gl.createBuffer(), place: buffer(new Float32Array([0, 0, 1, 0, 1, 1, 0, 1])),
      texture: gl.createTexture(), frustums: null,
    };
    resizeCameras();
    if (state.photo) setPhoto(state.photo);
  }

  function resizeCameras() {
    if (drawing.frustums) gl.deleteBuffer(drawing.frustums.data);
    const rows = Array.from({ length: numDb }, (_, i) => i);
    const data = frustums(scene.db, rows, sizeOf(1));
    drawing.frustums = { data: buffer(data), count: data.length / 3 };
  }

  function axes() { // of the view: right, up, forward
    if (state.through) return state.through;
    const [cp, sp] = [Math.cos(state.pitch), Math.sin(state.pitch)];
    const forward = [cp * Math.cos(state.yaw), cp * Math.sin(state.yaw), -sp];
    const right = [Math.sin(state.yaw), -Math.cos(state.yaw), 0];
    return { right, up: cross(right, forward), forward };
  }

  function eye() { return add(state.target, axes().forward, -state.distance); }

  function matrix() {
    const { right, up, forward } = axes();
    const from = eye();
    const near = Math.min(sizeOf(0.2), 0.01 * state.distance);
    const far = Math.max(state.distance * 4, state.distance + 40 * scene.radius);
    const f = 1 / Math.tan(state.fov / 2), aspect = canvas.width / canvas.height;
    const x = f / aspect, a = (far + near) / (far - near), b = 2 * far * near / (far - near);
    const rows = [
      [...right.map((v) => x * v), -x * dot(right, from)],
      [...up.map((v) => f * v), -f * dot(up, from)],
      [...forward.map((v) => a * v), -a * dot(forward, from) - b],
      [...forward, -dot(forward, from)],
    ];
    const columns = new Float32Array(16);
    for (let i = 0; i < 4; i++) for (let j = 0; j < 4; j++) columns[4 * j + i] = rows[i][j];
    return columns;
  }

  function project(m, p) { // CSS pixels in the canvas; null behind the eye
    const w = m[3] * p[0] + m[7] * p[1] + m[11] * p[2] + m[15];
    if (w <= 0) return null;
    const x = (m[0] * p[0] + m[4] * p[1] + m[8] * p[2] + m[12]) / w;
    const y = (m[1] * p[0] + m[5] * p[1] + m[9] * p[2] + m[13]) / w;
    return [(x + 1) / 2 * canvas.clientWidth, (1 - y) / 2 * canvas.clientHeight];
  }

  function attribute(made, name, data, size, type = gl.FLOAT, normalized = false) {
    const place = gl.getAttribLocation(made, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, data);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, size, type, normalized, 0, 0);
  }

  function use(made, m) {
    gl.useProgram(made);
    for (let i = 0; i < 3; i++) gl.disableVertexAttribArray(i);
    gl.uniformMatrix4fv(gl.getUniformLocation(made, "matrix"), false, m);
  }

  function drawLines(m, data, count, color) {
    use(drawing.lineProgram, m);
    gl.uniform4fv(gl.getUniformLocation(drawing.lineProgram, "color"), color);
    attribute(drawing.lineProgram, "position", data, 3);
    gl.drawArrays(gl.LINES, 0, count);
  }

  function drawLoose(m, data, color) { // lines that change with the selection
    if (!data.length) return;
    gl.bindBuffer(gl.ARRAY_BUFFER, drawing.scratch);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
    drawLines(m, drawing.scratch, data.length / 3, color);
  }

  function drawMarkers(m, made, size) {
    if (!made.count) return;
    use(drawing.markerProgram, m);
    gl.uniform1f(gl.getUniformLocation(drawing.markerProgram, "size"), size * crowd * ratio());
    gl.uniform3fv(gl.getUniformLocation(drawing.markerProgram, "ink"), ink());
    attribute(drawing.markerProgram, "position", made.position, 3);
    attribute(drawing.markerProgram, "color", made.color, 3);
    attribute(drawing.markerProgram, "shape", made.shape, 1);
    gl.drawArrays(gl.POINTS, 0, made.count);
  }

  function drawPhoto(m, opacity) {
    if (!state.photo || state.selected === null || !hasPose(scene.estimated, state.selected)) return;
    use(drawing.photoProgram, m);
    gl.bindBuffer(gl.ARRAY_BUFFER, drawing.scratch);
    const c = corners(scene.estimated, state.selected, sizeOf(3));
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(c.flat()), gl.DYNAMIC_DRAW);
    attribute(drawing.photoProgram, "position", drawing.scratch, 3);
    attribute(drawing.photoProgram, "place", drawing.place, 2);
    gl.bindTexture(gl.TEXTURE_2D, drawing.texture);
    gl.uniform1f(gl.getUniformLocation(drawing.photoProgram, "opacity"), opacity);
    gl.drawArrays(gl.TRIANGLE_FAN, 0, 4);
  }

  function drawSelection(m) {
    const row = state.selected;
    if (row === null) return;
    if (state.visible.rays && state.seen) drawMarkers(m, state.seen, 8);
    if (state.through) return;
    if (state.visible.rays && state.rays) drawLoose(m, state.rays, [...ink(), 0.16]);
    drawLoose(m, frustums(scene.db, state.retrieved, sizeOf(1.3)), [...ink(), 1]);
    drawLoose(m, frustums(scene.truth, [row], sizeOf(3)), [...TRUTH_LOOK.color, 1]);
    drawPhoto(m, 1);
    // three times, a pixel apart: WebGL's lines are one pixel wide
    const own = frustums(scene.estimated, [row], sizeOf(3));
    for (const shift of [-1, 0, 1]) {
      const moved = m.slice();
      for (let i = 0; i < 4; i++) {
        moved[4 * i] += shift * ratio() / canvas.width * 2 * m[4 * i + 3];
        moved[4 * i + 1] += shift * ratio() / canvas.height * 2 * m[4 * i + 3];
      }
      drawLoose(moved, own, [...scene.looks[row].color.map((v) => (state.dark ? 0.4 + 0.6 * v : 0.75 * v)), 1]);
    }
  }

  function ratio() { return canvas.width / Math.max(canvas.clientWidth, 1); }

  function draw() {
    const scale = window.devicePixelRatio || 1;
    const width = Math.max(Math.round(canvas.clientWidth * scale), 1);
    const height = Math.max(Math.round(canvas.clientHeight * scale), 1);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const m = matrix();
    gl.viewport(0, 0, width, height);
    gl.clearColor(...(state.dark ? GROUND.dark : GROUND.light), 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.depthFunc(gl.LEQUAL);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    if (state.through) { // the photo as a backdrop, for the map to be seen on it
      gl.disable(gl.DEPTH_TEST);
      drawPhoto(m, 0.75);
      gl.enable(gl.DEPTH_TEST);
    }
    if (state.visible.points) {
      use(drawing.pointProgram, m);
      gl.uniform1f(gl.getUniformLocation(drawing.pointProgram, "size"), state.pointSize * ratio());
      gl.uniform1f(gl.getUniformLocation(drawing.pointProgram, "dark"), state.dark ? 1 : 0);
      attribute(drawing.pointProgram, "position", drawing.points, 3);
      attribute(drawing.pointProgram, "color", drawing.colors, 3, gl.UNSIGNED_BYTE, true);
      gl.drawArrays(gl.POINTS, 0, scene.points.length / 3);
    }
    if (!state.through) {
      const quiet = state.selected === null ? 0.75 : 0.3;
      if (state.visible.database) {
        const grey = state.dark ? 0.75 : 0.35;
        drawLines(m, drawing.frustums.data, drawing.frustums.count, [grey, grey, grey, quiet]);
        if (scene.db !== scene.estimated) drawMarkers(m, drawing.marks.database, 9);
      }
      if (state.visible.estimated && state.visible.truth) {
        drawLines(m, drawing.errors.data, drawing.errors.count, [...ink(), quiet]);
      }
      gl.depthFunc(gl.ALWAYS); // queries are never hidden by the map
      if (state.visible.truth) drawMarkers(m, drawing.marks.truth, 16);
      if (state.visible.estimated) drawMarkers(m, drawing.marks.estimated, 11);
      gl.depthFunc(gl.LEQUAL);
    }
    drawSelection(m);
  }

  let waiting = false;
  function redraw() {
    if (waiting || gl.isContextLost()) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; if (!gl.isContextLost()) draw(); });
  }

  function nearest(x, y) { // the camera under the pointer, queries before database images
    const m = matrix();
    let best = { kind: null, row: -1, away: 13 };
    const look = (poses, count, kind, handicap) => {
      for (let row = 0; row < count; row++) {
        if (!hasPose(poses, row)) continue;
        const at = project(m, posePart(poses, row, 0));
        if (!at) continue;
        const away = Math.hypot(at[0] - x, at[1] - y) + handicap;
        if (away < best.away) best = { kind, row, away };
      }
    };
    if (state.visible.estimated) look(scene.estimated, numQueries, "query", 0);
    if (state.visible.truth) look(scene.truth, numQueries, "query", 2);
    if (state.visible.database && scene.db !== scene.estimated) look(scene.db, numDb, "database", 5);
    return best;
  }

  function setPhoto(image) {
    state.photo = image;
    if (image) {
      gl.bindTexture(gl.TEXTURE_2D, drawing.texture);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, image);
      for (const name of ["TEXTURE_WRAP_S", "TEXTURE_WRAP_T"]) {
        gl.texParameteri(gl.TEXTURE_2D, gl[name], gl.CLAMP_TO_EDGE);
      }
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
    }
    redraw();
  }

  function lookAlong(forward) {
    state.yaw = Math.atan2(forward[1], forward[0]);
    state.pitch = Math.asin(Math.max(-1, Math.min(1, -forward[2] / Math.hypot(...forward))));
  }

  function leave() { // a query's camera, for the view's own
    state.through = null;
    state.fov = FOV;
  }

  function everything() { // all places as one
    const all = (key, of) => [0, 1, 2].map((i) => of(...scene.places.map((place) => place[key][i])));
    return { low: all("low", Math.min), high: all("high", Math.max),
      cameras: scene.places.flatMap((place) => place.cameras) };
  }

  /* Look at a place the way its cameras look, from above, so that it fills the picture. */
  function frame({ low, high, cameras }, pitch) {
    leave();
    let sum = [0, 0, 0];
    for (const row of cameras) if (hasPose(scene.db, row)) sum = add(sum, posePart(scene.db, row, 3));
    lookAlong(Math.hypot(sum[0], sum[1]) > 1e-6 ? unit(sum) : [1, 0, 0]);
    state.pitch = pitch;
    const within = (p) => p.every((value, i) => value >= low[i] - 1e-6 && value <= high[i] + 1e-6);
    const every = Math.max(1, Math.floor(cameras.length / SAMPLE));
    const shown = cameras.filter((row, i) => i % every === 0 && hasPose(scene.db, row))
      .map((row) => posePart(scene.db, row, 0));
    const step = Math.max(1, Math.floor(scene.points.length / 3 / SAMPLE));
    for (let i = 0; i < scene.points.length / 3; i += step) {
      const point = [...scene.points.subarray(3 * i, 3 * i + 3)];
      if (within(point)) shown.push(point);
    }
    state.target = add(low, add(high, low, -1), 0.5);
    const { right, up, forward } = axes();
    const tall = Math.tan(FOV / 2), wide = tall * canvas.clientWidth / Math.max(canvas.clientHeight, 1);
    for (let turn = 0; turn < 4; turn++) { // the middle of the picture depends on the distance
      const seen = shown.map((point) => {
        const from = add(point, state.target, -1);
        return [dot(from, right) / wide, dot(from, up) / tall, dot(from, forward)];
      });
      state.distance = 1.06 * Math.max(1e-3 * scene.radius,
        ...seen.map(([x, y, z]) => Math.max(Math.abs(x), Math.abs(y)) - z));
      const spread = (axis) => seen.map((p) => p[axis] / Math.max(state.distance + p[2], 1e-9));
      const middle = (values) => (Math.min(...values) + Math.max(...values)) / 2 * state.distance;
      if (turn === 3) break; // the distance is of where it looks
      state.target = add(add(state.target, right, middle(spread(0)) * wide), up, middle(spread(1)) * tall);
    }
    redraw();
  }

  const viewer = {
    redraw, setPhoto,
    /* Where a query's marker is, in CSS pixels from the canvas's corner. */
    at: (row) => project(matrix(), posePart(scene.estimated, row, 0)),
    show(layer, visible) { state.visible[layer] = visible; redraw(); },
    pointSize: () => state.pointSize,
    setPointSize(size) { state.pointSize = size; redraw(); },
    setCameraSize(factor) { state.cameraFactor = factor; resizeCameras(); redraw(); },
    setDark(dark) { state.dark = dark; redraw(); },
    /* Show another scene, with poses of the same images. */
    load(next) {
      scene = next;
      Object.assign(state, { selected: null, retrieved: [], rays: null, seen: null, photo: null, seenPlace: 0 });
      upload();
      redraw();
    },
    placeSeen: () => state.seenPlace,
    /* The next of the places, from the first one on. */
    place() {
      state.seenPlace = (state.seenPlace + 1) % scene.places.length;
      frame(scene.places[state.seenPlace], PITCH);
    },
    whole() { frame(everything(), PITCH); },
    reset() {
      state.seenPlace = 0;
      frame(scene.places[0], PITCH);
    },
    above() { frame(scene.places[state.seenPlace], Math.PI / 2); },
    /* Select a query (null: none): rows of scene.points that it sees, of db that it used. */
    select(row, seen, retrieved) {
      for (const name of ["position", "color", "shape"]) gl.deleteBuffer(state.seen?.[name] ?? null);
      Object.assign(state, { selected: row, retrieved, rays: null, seen: null, photo: null });
      leave();
      if (row === null || !hasPose(scene.estimated, row)) return;
      const centre = posePart(scene.estimated, row, 0);
      const at = Array.from(seen, (i) => [...scene.points.subarray(3 * i, 3 * i + 3)]);
      state.rays = new Float32Array(at.flatMap((point) => [...centre, ...point]));
      state.seen = markers(
        new Float32Array(at.flatMap((point) => [...point, ...new Array(POSE - 3).fill(0)])),
        () => SEEN_LOOK, at.length);
      state.away = at.map((point) => Math.hypot(...add(point, centre, -1)))
        .sort((a, b) => a - b)[at.length >> 1] ?? scene.radius / 2;
      redraw();
    },
    /* See what the query sees, its photo behind the points. */
    through(row) {
      if (!hasPose(scene.estimated, row)) return;
      const [centre, right, down, forward] = [0, 1, 2, 3].map(
        (part) => posePart(scene.estimated, row, part));
      lookAlong(forward); // from here on, when the view is turned
      state.through = { right, up: down.map((value) => -value), forward };
      state.distance = state.away;
      state.target = add(centre, forward, state.distance);
      const aspect = canvas.clientWidth / canvas.clientHeight;
      const [x, y] = [12, 13].map((part) => scene.estimated[row * POSE + part]);
      state.fov = 2 * Math.atan(1.03 * Math.max(y, x / aspect));
      redraw();
    },
    /* Come near enough to a query to see it with what it sees. */
    approach(row) {
      if (!hasPose(scene.estimated, row)) return;
      const forward = posePart(scene.estimated, row, 3);
      const away = Math.min(state.away, scene.radius);
      state.target = add(posePart(scene.estimated, row, 0), forward, 0.4 * away);
      state.distance = 2.2 * away;
      redraw();
    },
  };

  const held = new Map(); // pointers that are down
  let moved = 0, pinch = 0;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, [event.offsetX, event.offsetY]);
    moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = held.get(event.pointerId);
    if (!last) {
      const { kind, row } = nearest(event.offsetX, event.offsetY);
      canvas.style.cursor = kind === null ? "grab" : "pointer";
      onHover(kind, row, event.offsetX, event.offsetY);
      return;
    }
    const dx = event.offsetX - last[0], dy = event.offsetY - last[1];
    held.set(event.pointerId, [event.offsetX, event.offsetY]);
    moved += Math.abs(dx) + Math.abs(dy);
    if (moved < 4) return;
    leave();
    onHover(null);
    const { right, up } = axes();
    const pixel = 2 * Math.tan(state.fov / 2) * state.distance / canvas.clientHeight;
    if (held.size === 2) { // two fingers: zoom and move
      const [a, b] = [...held.values()];
      const apart = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (pinch) zoom(pinch / Math.max(apart, 1));
      pinch = apart;
      state.target = add(add(state.target, right, -dx * pixel / 2), up, dy * pixel / 2);
    } else if (event.buttons & 2 || event.shiftKey) {
      state.target = add(add(state.target, right, -dx * pixel), up, dy * pixel);
    } else {
      state.yaw -= dx * 0.006;
      state.pitch = Math.max(-1.5, Math.min(Math.PI / 2, state.pitch + dy * 0.006));
    }
    redraw();
  });
  const release = (event) => {
    if (held.delete(event.pointerId) && event.type === "pointerup" && moved < 4) {
      const { kind, row } = nearest(event.offsetX, event.offsetY);
      if (kind !== null) onPick(kind, row);
    }
    pinch = 0;
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => onHover(null));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  function zoom(factor) {
    leave();
    state.distance = Math.max(
      1e-3 * scene.radius, Math.min(40 * scene.radius, state.distance * factor));
    redraw();
  }
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY * (event.deltaMode ? 0.05 : 0.0015)))));
  }, { passive: false });
  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => { upload(); redraw(); });
  new ResizeObserver(redraw).observe(canvas);
  upload();
  viewer.reset();
  return viewer;
}
