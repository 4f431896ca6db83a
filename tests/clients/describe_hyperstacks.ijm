// Opens images and says what ImageJ takes them for. Argument: a file with a path a line; "virtual:" before a path opens it
// as a virtual stack. For each: its dimensions, bits, calibration, and of each slice its label and three pixels.
setBatchMode(true);
paths = split(File.openAsString(getArgument()), "\n");
for (i = 0; i < paths.length; i++) {
    path = paths[i];
    if (startsWith(path, "virtual:")) {
        path = substring(path, 8);
        run("TIFF Virtual Stack...", "open=[" + path + "]");
    } else
        open(path);
    getDimensions(width, height, channels, slices, frames);
    getVoxelSize(dx, dy, dz, unit);
    print("image|" + path + "|" + width + "|" + height + "|" + channels + "|" + slices + "|" + frames + "|" + bitDepth() + "|" + d2s(dx, 4) + "|" + d2s(dz, 4) + "|" + unit);
    n = nSlices;
    step = 1;
    if (n > 100) step = n - 1;
    for (s = 1; s <= n; s += step) {
        setSlice(s);
        print("slice|" + s + "|" + getInfo("slice.label") + "|" + d2s(getPixel(0, 0), 4) + "|" + d2s(getPixel(width - 1, 0), 4) + "|" + d2s(getPixel(width - 2, height - 1), 4));
    }
    close();
}
print("described " + paths.length + " images");
