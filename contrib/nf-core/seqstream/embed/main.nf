process SEQSTREAM_EMBED {
    tag "${meta.id}"
    label 'process_high'

    conda "${moduleDir}/environment.yml"
    container "${ workflow.containerEngine == 'singularity' && !task.ext.singularity_pull_docker_container ?
        'oras://community.wave.seqera.io/library/seqstream:0.1.0' :
        'community.wave.seqera.io/library/seqstream:0.1.0' }"

    input:
    tuple val(meta), path(sequences)
    path  model

    output:
    tuple val(meta), path("${prefix}")              , emit: embeddings
    tuple val(meta), path("${prefix}/manifest.json"), emit: manifest
    tuple val("${task.process}"), val('seqstream'), eval('seqstream -V | cut -d" " -f2'), emit: versions_seqstream, topic: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    def device = task.accelerator ? 'cuda' : 'cpu'
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    seqstream embed \\
        ${sequences} \\
        --model ${model} \\
        --out ${prefix} \\
        --device ${device} \\
        --threads ${task.cpus} \\
        --offline \\
        ${args}
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir -p ${prefix}/shard-000000
    touch ${prefix}/job.json
    touch ${prefix}/manifest.json
    touch ${prefix}/shard-000000/ids.txt
    touch ${prefix}/shard-000000/layer_1.npy
    touch ${prefix}/shard-000000/shard.json
    """
}
