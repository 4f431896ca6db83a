// Opens every TIFF below a folder, measures it, and saves a mask of each and one table of all.
// Argument: the folder to read and the folder to write, joined by ":" as the imagej command does.
folders = split(getArgument(), ":");
source = folders[0] + "/";
results = folders[1] + "/";
setBatchMode(true);
setOption("BlackBackground", true);
run("Clear Results");
row = 0;
visit("");
saveAs("Results", results + "measurements.csv");
print("measured " + row + " images");

function visit(below) {
    names = getFileList(source + below);
    Array.sort(names);
    for (i = 0; i < names.length; i++) {
        if (endsWith(names[i], "/"))
            visit(below + names[i]);
        else if (endsWith(toLowerCase(names[i]), ".tif"))
            measure(below + names[i]);
    }
}

function measure(name) {
    open(source + name);
    getStatistics(area, mean, min, max, deviation);
    setResult("Name", row, name);
    setResult("Slices", row, nSlices);
    setResult("Area", row, area);
    setResult("Mean", row, mean);
    setResult("Min", row, min);
    setResult("Max", row, max);
    setResult("StdDev", row, deviation);
    updateResults();
    row++;
    run("Median...", "radius=2");
    setThreshold(mean + deviation, 65535);
    run("Convert to Mask");
    saveAs("Tiff", results + "mask_" + replace(name, "/", "_"));
    close();
}
