package edgefuse

import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.tensorflow.lite.Interpreter

/**
 * A TFLite file in LiteRT (`com.google.ai.edge.litert:litert` 1.4 or 2.1 and later). XNNPACK runs what it can.
 *
 * Tensors are named as in the file's signature, which is what the bindings of a bundle for TFLite name.
 */
class LiteRtStage(data: ByteArray, inputs: List<Binding>, private val outputs: List<Binding>) : StageFile {
    // LiteRT reads weights from this very buffer for as long as the interpreter lives.
    private val model = direct(data.size).put(data).apply { rewind() }
    private val interpreter: Interpreter
    private val signature: String

    init {
        // edgefuse writes TFLite files of fixed shapes: what varies is padded on the way in.
        inputs.firstOrNull { -1 in it.shape }?.let {
            throw BundleException("the input '${it.tensor}' of a TFLite file has no fixed shape")
        }
        interpreter = Interpreter(model, Interpreter.Options().setNumThreads(1))
        signature = interpreter.signatureKeys.first()
    }

    override fun run(feeds: Map<String, Tensor>): Map<String, Tensor> {
        val given = feeds.mapValues { (_, tensor) -> direct(tensor.data.size).put(tensor.data).apply { rewind() } }
        val found = outputs.associate { it.tensor to direct(zeros(it).data.size) }
        interpreter.runSignature(given, found, signature)
        return outputs.associate { binding ->
            val buffer = found.getValue(binding.tensor).apply { rewind() }
            binding.tensor to zeros(binding).also { buffer.get(it.data) }
        }
    }

    override fun close() = interpreter.close()

    private fun zeros(binding: Binding) = Tensor.zeros(binding.dtype, binding.shape)

    private fun direct(size: Int): ByteBuffer = ByteBuffer.allocateDirect(size).order(ByteOrder.nativeOrder())
}
