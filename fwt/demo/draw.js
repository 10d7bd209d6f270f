// A page to draw on: after each stroke the picture goes to the server, what is drawn opaque.
const canvas = element.querySelector("canvas");
const pen = canvas.getContext("2d");
let drawing = false;

const place = (event) => {
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
};
const send = () => trigger("input", { image: canvas.toDataURL("image/png") });
const stroke = (event) => {
  pen.lineTo(...place(event));
  pen.stroke();
};

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pen.lineWidth = canvas.width / 12;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(...place(event));
  stroke(event); // a dot, if it stays where it is
  drawing = true;
});
canvas.addEventListener("pointermove", (event) => drawing && stroke(event));
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, () => {
    if (drawing) send();
    drawing = false;
  });
}
element.querySelector("button").addEventListener("click", () => {
  pen.clearRect(0, 0, canvas.width, canvas.height);
  send();
});
// an image of the server's, drawn as if by hand
watch("value", () => {
  const picture = new Image();
  picture.onload = () => {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
    send();
  };
  picture.src = props.value;
});
