package edgefuse

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** An array in C order; `data` holds the elements in the byte order of the device. */
class Tensor(val dtype: String, val shape: IntArray, val data: ByteArray) {
    fun floats(): FloatArray =
        FloatArray(data.size / 4).also { ByteBuffer.wrap(data).order(ByteOrder.nativeOrder()).asFloatBuffer().get(it) }

    companion object {
        fun zeros(dtype: String, shape: IntArray): Tensor {
            val elements = shape.fold(1L) { product, size -> Math.multiplyExact(product, size.toLong()) }
            if (elements > 1L shl 28) throw BundleException("a tensor has an impossible shape")
            return Tensor(dtype, shape, ByteArray(Math.toIntExact(elements * width(dtype))))
        }

        fun integer(value: Int): Tensor =
            Tensor("int32", intArrayOf(1), ByteBuffer.allocate(4).order(ByteOrder.nativeOrder()).putInt(value).array())

        fun floats(values: List<Float>, shape: IntArray): Tensor {
            val data = ByteBuffer.allocate(4 * values.size).order(ByteOrder.nativeOrder())
            values.forEach(data::putFloat)
            return Tensor("float32", shape, data.array())
        }

        fun width(dtype: String): Int = when (dtype) {
            "float32", "int32" -> 4
            "uint8" -> 1
            else -> throw BundleException("the manifest has the unknown type '$dtype'")
        }
    }
}

/** How a port of a stage is called and typed in its file; a size of -1 takes anything. */
class Binding(val port: String, val tensor: String, val dtype: String, val shape: IntArray)

/** A stage's file, opened by a runtime. */
interface StageFile : AutoCloseable {
    /** Runs once: arrays by the names that the file gives them, in and out. */
    fun run(feeds: Map<String, Tensor>): Map<String, Tensor>
}

/**
 * A runtime.
 *
 * @param suffix the end of the names of files that it opens, in lower case.
 * @param open opens a file from its bytes.
 */
class Opener(val suffix: String, val open: (ByteArray, List<Binding>, List<Binding>) -> StageFile)

/**
 * A rung of a bundle: raw inputs in, the model's outputs out. Not safe for concurrent calls.
 *
 * @param rung the operating point; the bundle's default if null.
 * @param openers the runtimes by backend: `mapOf("tflite" to Opener(".tflite", ::LiteRtStage))` on Android. Each stage
 * is opened by that of its file.
 */
class Pipeline(bundle: Bundle, rung: String? = null, private val openers: Map<String, Opener>) : AutoCloseable {
    private class Port(val name: String, val key: String, val largest: Tensor, val binding: Binding, val kind: String)

    private class Stage(
        val name: String, val modality: String, val inputs: List<Port>, val outputs: List<Port>, val file: StageFile,
    )

    private val modalities: List<Fields>
    private val stages: List<Stage>
    private val states = HashMap<String, Tensor>()

    init {
        val manifest = bundle.manifest
        val model = manifest.item("model", "Model").only("name", "modalities", "outputs", "metric")
        modalities = model.items("modalities", "Modality").onEach {
            it.only("name", "tensors", "preprocess", "optional", "length")
        }
        val name = rung ?: manifest.text("default_rung")
        val chosen = named(manifest.items("rungs", "Rung"), "name", name, "rung").texts("candidates")
        stages = manifest.items("stages", "Stage").map { stage ->
            stage.only("name", "role", "inputs", "outputs", "modality")
            val id = chosen[stage.text("name")] ?: throw BundleException("the rung '$name' lacks a stage")
            opened(bundle, stage, named(bundle.candidates, "id", id, "candidate"))
        }
    }

    private fun opened(bundle: Bundle, stage: Fields, candidate: Fields): Stage {
        val name = stage.text("name")
        val inputs = stage.items("inputs", "StageInput").map { port(it, candidate.items("inputs", "Binding"), keyOf(it)) }
        val outputs = stage.items("outputs", "StageOutput").map {
            val state = it.text("kind", "feature") == "state"
            val tensor = it.item("tensor", "Tensor").text("name")
            port(it, candidate.items("outputs", "Binding"), (if (state) "~" else "/") + "$name.$tensor")
        }
        val path = candidate.text("file")
        val backend = bundle.backend(candidate)
        val opener = openers[backend] ?: throw BundleException(
            "the stage '$name' needs the backend '$backend', which this app does not have: it has " +
                openers.keys.sorted().joinToString(),
        )
        if (!path.lowercase().endsWith(opener.suffix)) {
            throw BundleException("the backend '$backend' does not open '$path': its files end with ${opener.suffix}")
        }
        val file = opener.open(bundle.read(path), inputs.map(Port::binding), outputs.map(Port::binding))
        return Stage(name, stage.text("modality", ""), inputs, outputs, file)
    }

    /**
     * Turns decoded input into the tensors of a modality:
     * image: uint8 [height, width, channels] of the size that the modality asks for (decode and resize before);
     * audio: float32 mono samples in [-1, 1] at its sample rate, cut or padded here;
     * text: int32 token ids with special tokens, from its tokenizer, cut or padded here;
     * video: uint8 [frames, height, width, channels] at its rate and size, cut or padded here;
     * tensor: the elements of its one tensor, of the largest shape.
     */
    fun preprocess(name: String, raw: ByteArray): Map<String, Tensor> {
        val modality = named(modalities, "name", name, "modality")
        val spec = modality.items("tensors", "Tensor").singleOrNull()
            ?: throw BundleException("'$name' has several tensors: pass them to run()")
        val steps = modality.item("preprocess", "Preprocess")
        val largest = largest(spec)
        val sequence = steps.text("kind") in setOf("audio", "text", "video")
        val step = if (sequence) largest.data.size / largest.shape[1] else Tensor.width(largest.dtype) // bytes
        if (raw.isEmpty() || step == 0 || raw.size % step != 0 || (!sequence && raw.size != largest.data.size)) {
            throw BundleException("'$name' has ${raw.size} bytes, and it takes ${largest.data.size} of ${largest.dtype}")
        }
        if (steps.text("kind") == "audio" && Tensor("float32", intArrayOf(), raw).floats().any { !it.isFinite() }) {
            throw BundleException("'$name' holds a sample that is NaN or infinite")
        }
        if (!sequence) return withLength(modality, spec, Tensor(largest.dtype, largest.shape, raw), largest.shape.getOrElse(1) { 0 })
        val given = minOf(raw.size / step, largest.shape[1])
        val size = fitting(spec.list("shape")[1], given)
        val pad = if (steps.text("kind") == "text") steps.number("pad_id", 0).toInt() else 0 // +0.0 is all zero bits
        val data = ByteBuffer.allocate(step * size).order(ByteOrder.nativeOrder()).put(raw, 0, step * given)
        while (pad != 0 && data.hasRemaining()) data.putInt(pad)
        val shape = largest.shape.copyOf().also { it[1] = size }
        return withLength(modality, spec, Tensor(largest.dtype, shape, data.array()), given)
    }

    /** Predicts from the tensors of the modalities in `present`, by name. What is absent is zeros. */
    fun run(values: Map<String, Tensor>, present: Set<String>): Map<String, Tensor> {
        if (present.isEmpty()) throw BundleException("no modality is present")
        val pool = HashMap(values)
        for (modality in modalities.filter { it.text("name") !in present }) {
            val name = modality.text("name")
            if (!modality.flag("optional", false)) throw BundleException("the modality '$name' is required")
            modality.items("tensors", "Tensor").forEach { pool["$name.${it.text("name")}"] = largest(it) }
            if (modality.flag("length", false)) pool["$name.length"] = Tensor.integer(0)
        }
        val mask = modalities.map { if (it.text("name") in present) 1f else 0f }
        pool["present"] = Tensor.floats(mask, intArrayOf(1, mask.size))
        val results = LinkedHashMap<String, Tensor>()
        for (stage in stages) {
            val skipped = stage.modality.isNotEmpty() && stage.modality !in present
            val outputs = if (skipped) emptyMap() else stage.file.run(stage.inputs.associate { feed(stage, it, pool) })
            for (port in stage.outputs) {
                val value = outputs[port.binding.tensor] ?: Tensor.zeros("float32", port.largest.shape)
                if (port.kind == "result" && !skipped) results[port.name] = value
                if (port.kind == "state" && !skipped) states[port.key] = value
                pool["/${stage.name}.${port.name}"] = value
            }
        }
        return results
    }

    override fun close() = stages.forEach { it.file.close() }

    private fun feed(stage: Stage, port: Port, pool: Map<String, Tensor>): Pair<String, Tensor> {
        val value = if (port.key.startsWith("~")) states[port.key] ?: port.largest else pool[port.key]
            ?: throw BundleException("the stage '${stage.name}' needs '${port.key}', which is missing")
        val wanted = port.binding.shape
        val fits = wanted.size == value.shape.size && value.dtype == port.binding.dtype &&
            wanted.indices.all { wanted[it] < 0 || value.shape[it] == wanted[it] || (it > 0 && value.shape[it] < wanted[it]) }
        if (!fits) throw BundleException("'${port.key}' does not fit the input '${port.name}' of '${stage.name}'")
        val shape = IntArray(wanted.size) { if (wanted[it] < 0) value.shape[it] else wanted[it] }
        return port.binding.tensor to (if (shape.contentEquals(value.shape)) value else padded(value, shape))
    }

    private companion object {
        fun named(list: List<Fields>, field: String, name: String, what: String): Fields =
            list.firstOrNull { it.text(field) == name } ?: throw BundleException("this bundle has no $what '$name'")

        fun port(spec: Fields, bindings: List<Fields>, key: String): Port {
            val tensor = spec.item("tensor", "Tensor").only("name", "dtype", "shape")
            val found = named(bindings, "port", tensor.text("name"), "binding for the port")
            val shape = found.list("shape").map { (it as Long).toInt() }.toIntArray()
            val binding = Binding(found.text("port"), found.text("tensor"), found.text("dtype"), shape)
            return Port(tensor.text("name"), key, largest(tensor), binding, spec.text("kind", "feature"))
        }

        fun keyOf(port: Fields): String {
            val source = port.item("source", "Source").only("kind", "owner", "tensor")
            val owner = source.text("owner", "")
            val tensor = source.text("tensor", "")
            return when (val kind = source.text("kind")) {
                "modality" -> "$owner.$tensor"
                "length" -> "$owner.length"
                "stage" -> "/$owner.$tensor"
                "present" -> "present"
                "state" -> "~$owner.$tensor"
                "token" -> throw BundleException("the model makes one token after the other, which this reader does not")
                else -> throw BundleException("the manifest has a source of the unknown kind '$kind'")
            }
        }

        /** Zeros of a tensor's type and largest shape. */
        fun largest(tensor: Fields): Tensor =
            Tensor.zeros(tensor.text("dtype", "float32"), tensor.list("shape").map { fitting(it, Int.MAX_VALUE) }.toIntArray())

        /** The size that so many steps take in a dimension: fixed, any up to a maximum, or one of a few. */
        fun fitting(dim: Any?, steps: Int): Int {
            if (dim is Long) return dim.toInt()
            val fields = Fields.fields(dim, "dimension")
            if (fields.text("dim") == "bounded") return minOf(maxOf(steps, 1), fields.number("max").toInt())
            val sizes = fields.list("sizes").map { (it as Long).toInt() }
            return sizes.firstOrNull { it >= steps } ?: sizes.last()
        }

        fun withLength(modality: Fields, spec: Fields, value: Tensor, length: Int): Map<String, Tensor> {
            val name = modality.text("name")
            val values = mapOf("$name.${spec.text("name")}" to value)
            return if (modality.flag("length", false)) values + ("$name.length" to Tensor.integer(length)) else values
        }

        /** Copies a tensor into the first corner of zeros of a larger shape. */
        fun padded(value: Tensor, shape: IntArray): Tensor {
            val result = Tensor.zeros(value.dtype, shape)
            val last = shape.size - 1
            val width = Tensor.width(value.dtype)
            val row = value.shape[last] * width
            for (index in 0 until (if (row == 0) 0 else value.data.size / row)) {
                var rest = index
                var to = 0
                var stride = 1
                for (axis in last - 1 downTo 0) {
                    to += rest % value.shape[axis] * stride
                    rest /= value.shape[axis]
                    stride *= shape[axis]
                }
                System.arraycopy(value.data, index * row, result.data, to * shape[last] * width, row)
            }
            return result
        }
    }
}
