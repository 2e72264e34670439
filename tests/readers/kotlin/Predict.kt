package edgefuse

import java.io.DataInputStream
import java.io.DataOutputStream
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.system.exitProcess

/** The process that runs stage files for this one, since LiteRT's Java library is for Android. */
private class Server(vararg command: String) : AutoCloseable {
    private val process = ProcessBuilder(*command).redirectError(ProcessBuilder.Redirect.INHERIT).start()
    private val out = DataOutputStream(process.outputStream.buffered())
    private val answers = DataInputStream(process.inputStream.buffered())

    fun open(data: ByteArray, inputs: List<Binding>, outputs: List<Binding>): StageFile {
        out.writeByte('o'.code)
        for (bindings in listOf(inputs, outputs)) {
            out.writeInt(bindings.size)
            for (binding in bindings) {
                out.writeUTF(binding.port)
                out.writeUTF(binding.tensor)
                header(binding.dtype, binding.shape)
            }
        }
        bytes(data)
        out.flush()
        val number = answers.readInt()
        return object : StageFile {
            override fun run(feeds: Map<String, Tensor>) = run(number, feeds)
            override fun close() = Unit
        }
    }

    override fun close() {
        out.close()
        process.waitFor()
    }

    private fun run(number: Int, feeds: Map<String, Tensor>): Map<String, Tensor> {
        out.writeByte('r'.code)
        out.writeInt(number)
        out.writeInt(feeds.size)
        for ((name, tensor) in feeds) {
            out.writeUTF(name)
            header(tensor.dtype, tensor.shape)
            bytes(tensor.data)
        }
        out.flush()
        return (0 until answers.readInt()).associate {
            val name = answers.readUTF()
            val dtype = answers.readUTF()
            val shape = IntArray(answers.readInt()) { answers.readInt() }
            name to Tensor(dtype, shape, answers.readNBytes(answers.readInt()))
        }
    }

    private fun header(dtype: String, shape: IntArray) {
        out.writeUTF(dtype)
        out.writeInt(shape.size)
        shape.forEach(out::writeInt)
    }

    private fun bytes(data: ByteArray) {
        out.writeInt(data.size)
        out.write(data)
    }
}

/**
 * PYTHON SERVER BUNDLE [--digest HEX] [--rung NAME] [--backends A+B] [MODALITY=FILE ...]: writes the first output, a number
 * a line. `--backends`: those that this program has; both if left out.
 */
fun main(arguments: Array<String>) {
    val (python, server, path) = arguments
    val options = HashMap<String, String>()
    val inputs = LinkedHashMap<String, ByteArray>()
    var at = 3
    while (at < arguments.size) {
        if (arguments[at].startsWith("--")) {
            options[arguments[at]] = arguments[at + 1]
            at += 2
        } else {
            inputs[arguments[at].substringBefore('=')] = File(arguments[at++].substringAfter('=')).readBytes()
        }
    }
    try {
        val bundle = Bundle(File(path), options["--digest"])
        val servers = HashMap<String, Server>() // each started for the first file that needs it
        val openers = (options["--backends"] ?: "onnx+tflite").split('+').associateWith { backend ->
            Opener(".$backend") { data, inputs, outputs ->
                servers.getOrPut(backend) { Server(python, server, backend) }.open(data, inputs, outputs)
            }
        }
        try {
            Pipeline(bundle, options["--rung"], openers).use { pipeline ->
                val values = inputs.flatMap { (name, raw) -> pipeline.preprocess(name, raw).entries }
                val results = pipeline.run(values.associate { it.key to it.value }, inputs.keys)
                results.values.first().floats().forEach(::println)
            }
        } finally {
            servers.values.forEach(Server::close)
        }
    } catch (error: BundleException) {
        System.err.println("error: ${error.message}.")
        exitProcess(2)
    }
}
